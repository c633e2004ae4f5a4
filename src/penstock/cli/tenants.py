"""``penstock tenant``: the teams or customers that share an installation, for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from penstock.cli.gateway import with_client
from penstock.cli.output import AsJson, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.access.key import Tenant
    from penstock.client import Client

T = TypeVar("T")

app = typer.Typer(help="Manage tenants, as an operator, through the gateway at PENSTOCK_URL.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant's name.")]
TimeZone = Annotated[str, typer.Option("--time-zone", metavar="ZONE", help="Its time zone, by its IANA name.")]


@app.command()
def create(name: Name, time_zone: TimeZone = "UTC", as_json: AsJson = False) -> None:
    """Create a tenant.

    penstock tenant create acme --time-zone Europe/Berlin
    """
    _show_one(_call(lambda client: client.create_tenant(name, time_zone=time_zone)), as_json=as_json)


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants."""
    import msgspec

    found = _call(lambda client: client.tenants())
    if wants_json(as_json):
        print_json(msgspec.to_builtins(found))
    else:
        print_table(("name", "time zone", "created", "state"), (_row(tenant) for tenant in found))


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one tenant.

    penstock tenant show acme
    """
    _show_one(_call(lambda client: client.tenant(name)), as_json=as_json)


@app.command()
def change(name: Name, time_zone: TimeZone, as_json: AsJson = False) -> None:
    """Change a tenant.

    penstock tenant change acme --time-zone Asia/Tokyo
    """
    _show_one(_call(lambda client: client.change_tenant(name, time_zone=time_zone)), as_json=as_json)


@app.command()
def suspend(name: Name, as_json: AsJson = False) -> None:
    """Suspend a tenant: its keys are not valid until it is resumed, and its open requests end within two seconds.

    penstock tenant suspend acme
    """
    _show_one(_call(lambda client: client.change_tenant(name, suspended=True)), as_json=as_json)


@app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Make the keys of a suspended tenant valid again.

    penstock tenant resume acme
    """
    _show_one(_call(lambda client: client.change_tenant(name, suspended=False)), as_json=as_json)


@app.command()
def delete(
    name: Name,
    with_usage: Annotated[bool, typer.Option("--with-usage", help="Delete its sums of usage too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a suspended tenant with all that it owns: jobs, files, keys, models, quotas. It cannot be undone.

    penstock tenant delete acme
    """
    if not yes:
        typed = typer.prompt(
            f"This deletes all that {name} owns. Type its name to continue", default="", show_default=False
        )
        if typed != name:
            typer.echo("Nothing was deleted.", err=True)
            raise typer.Exit(1)
    _show_one(_call(lambda client: client.delete_tenant(name, with_usage=with_usage)), as_json=as_json)


def _call(act: Callable[[Client], Awaitable[T]]) -> T:
    return with_client(act, of_tenant=False)


def _show_one(tenant: Tenant, *, as_json: bool) -> None:
    import msgspec

    if wants_json(as_json):
        print_json(msgspec.to_builtins(tenant))
    else:
        print_table(("name", "time zone", "created", "state"), [_row(tenant)])


def _row(tenant: Tenant) -> Sequence[object]:
    suspended = tenant.suspended_at
    state = "active" if suspended is None else f"suspended since {local_time(suspended)}"
    if tenant.deleting_since is not None:
        state = f"being deleted since {local_time(tenant.deleting_since)}"
    return (tenant.name, tenant.time_zone, local_time(tenant.created_at), state)
