"""``penstock secret``: the secret of the installation, on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from penstock.cli.output import AsJson, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.access.instance import Instance

T = TypeVar("T")

app = typer.Typer(
    help="Manage the secret that protects the keys and secrets in the database.",
    no_args_is_help=True,
)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where the secret of this host is, whether its database uses it, and what a rotation waits for.

    The ids identify secrets and do not reveal them.
    """
    from dataclasses import asdict

    found = _run(lambda instance: instance.status())
    if wants_json(as_json):
        print_json(asdict(found))
        return
    waits = ", ".join(found.left) or "nothing: penstock secret rotate --finish"
    rows = [
        ("place", found.place),
        ("id", found.id),
        ("known to the database", ", ".join(found.in_database) or "none yet"),
        ("rotation", "none" if found.previous_id is None else f"from {found.previous_id}"),
    ]
    print_table(("field", "value"), rows if found.previous_id is None else [*rows, ("waits for", waits)])


@app.command()
def show() -> None:
    """Print the secret of this host, for PENSTOCK_SECRET_KEY on the other hosts. Keep it safe: with it, anyone can make
    tickets and read what it protects.

    penstock secret show
    """
    from penstock.access.secret_file import SecretSource
    from penstock.settings import load_settings

    settings = load_settings()
    secrets = SecretSource(settings.penstock_secret_key, settings.penstock_data_dir).get()
    typer.echo(",".join(one.text() for one in (secrets.current, secrets.previous) if one is not None))


@app.command()
def rotate(
    finish: Annotated[
        bool, typer.Option("--finish", help="End the rotation: the previous secret is no longer valid.")
    ] = False,
) -> None:
    """Replace the secret by a new one. Both are valid until --finish; each key moves to the new one when it is used.

    penstock secret rotate

    penstock secret rotate --finish

    Where PENSTOCK_SECRET_KEY is set, first put a new secret before the current one on every host, separated by a comma,
    and restart Penstock there.
    """
    if finish:
        _run(lambda instance: instance.finish())
        status = _run(lambda instance: instance.status())
        typer.echo(f"The rotation has ended; the secret is {status.id}.")
        if status.previous_id is not None:
            typer.echo("Remove the previous secret from PENSTOCK_SECRET_KEY on every host.")
        return
    secrets = _run(lambda instance: instance.rotate())
    typer.echo(
        f"The secret is {secrets.current.id} now. Keys move to it when they are used; penstock secret status shows "
        "those that have not, and penstock secret rotate --finish ends the rotation."
    )


def _run(act: Callable[[Instance], Awaitable[T]]) -> T:
    """Run something with the secret of this host and its database."""
    from penstock.access.instance import Instance
    from penstock.access.secret_file import SecretSource
    from penstock.athena.credentials import sealing as athena
    from penstock.callbacks import sealing as callbacks
    from penstock.models import sealing as models
    from penstock.postgres.address import database_url
    from penstock.postgres.pool import Database
    from penstock.settings import load_settings

    settings = load_settings()
    source = SecretSource(settings.penstock_secret_key, settings.penstock_data_dir)

    async def run() -> T:
        database = Database(database_url(settings), application_name="penstock-secret", max_size=1)
        try:
            return await act(Instance(database, source, reseal=[models.reseal, callbacks.reseal, athena.reseal]))
        finally:
            await database.close()

    return asyncio.run(run())
