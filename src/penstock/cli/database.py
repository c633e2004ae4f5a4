"""``penstock db``: the database, embedded or named by DATABASE_URL."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock.settings import Settings

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.command()
def migrate() -> None:
    """Bring the schema up to date. An embedded database that is not running is started for this."""
    import asyncio

    from penstock.settings import load_settings
    from penstock.telemetry import logs

    settings = load_settings()
    logs.configure(
        level="warning", form=settings.penstock_log_format, secrets=settings.secret_values(), stream=sys.stderr
    )
    asyncio.run(_migrate(settings))
    typer.echo("The schema is up to date.")


@app.command()
def url() -> None:
    """Print the address of the database for other programs: DATABASE_URL, or the address of the embedded database here,
    which needs no password."""
    from penstock.postgres.address import database_url
    from penstock.settings import load_settings

    typer.echo(database_url(load_settings()))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to psql, such as -c 'SELECT 1'.")] = None,
) -> None:
    """Open psql on the database."""
    from penstock.errors import CannotStart
    from penstock.postgres.address import database_url
    from penstock.postgres.embedded import program
    from penstock.settings import load_settings

    settings = load_settings()
    try:
        path = str(program("psql"))
    except CannotStart:
        path = shutil.which("psql") or ""
    if not path:
        raise CannotStart("There is no psql here: neither with the embedded PostgreSQL nor on the PATH.")
    environment = {**os.environ, "PGOPTIONS": "-c search_path=penstock,public", "PGAPPNAME": "psql"}
    # The address may hold a password, and command lines are visible to every user of a machine.
    environment |= _connection_variables(database_url(settings))
    os.execve(path, [path, *(arguments or [])], environment)  # noqa: S606  (no shell is what we want)


async def _migrate(settings: Settings) -> None:
    from penstock.errors import DatabaseUnavailable
    from penstock.postgres.address import database_url
    from penstock.postgres.embedded import EmbeddedServer
    from penstock.postgres.migrate import migrate as bring_up_to_date

    try:
        await bring_up_to_date(database_url(settings))
    except DatabaseUnavailable:
        if settings.database_url is not None:
            raise
        server = EmbeddedServer(settings.penstock_data_dir)
        await server.start()
        try:
            await bring_up_to_date(server.url)
        finally:
            await server.stop()


def _connection_variables(url: str) -> dict[str, str]:
    """Return the environment variables from which libpq reads the parts of a URL."""
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    found = {
        "PGHOST": query.get("host") or parts.hostname,
        "PGPORT": query.get("port") or (str(parts.port) if parts.port else None),
        "PGUSER": unquote(parts.username) if parts.username else query.get("user"),
        "PGPASSWORD": unquote(parts.password) if parts.password else query.get("password"),
        "PGDATABASE": unquote(parts.path.lstrip("/")) or query.get("dbname"),
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
    }
    return {name: value for name, value in found.items() if value}
