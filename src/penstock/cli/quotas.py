"""``penstock quota``: how much a tenant, a key or a user may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.output import AsJson, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.quotas.quota import Quota

app = typer.Typer(
    help="Show quotas and, as an operator, set them, through the gateway at PENSTOCK_URL.", no_args_is_help=True
)

_COLUMNS = ("id", "measure", "per", "for", "limit", "used", "reserved", "resets")
_User = Annotated[str | None, typer.Option(metavar="ID", help="The user; '*' for every user, each on their own.")]


@command(app, "list")
def list_quotas(
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the use of this user for quotas of every user.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the quotas of a tenant, and how much of each is used."""
    _show(with_client(lambda client: client.quotas(user=user)), as_json=as_json)


@command(app, "set")
def set_quota(
    measure: Annotated[str, typer.Argument(metavar="MEASURE", help="Such as calls_at_once, jobs or tokens.")],
    limit: Annotated[int, typer.Argument(metavar="LIMIT", min=0, help="How much is allowed.")],
    per: Annotated[str | None, typer.Option(metavar="WINDOW", help="minute, hour, day or month.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="The id of a key.")] = None,
    user: _User = None,
    on_crash: Annotated[
        str | None,
        typer.Option(metavar="free|charge", help="What happens to the part that a killed gateway held."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="soft|strict", help="For tokens: whether calls first reserve the most that they can use."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a quota, or change its limit.

    penstock quota set jobs 10000 --per day --tenant acme

    penstock quota set calls_at_once 4 --user '*' --tenant acme

    penstock quota set tokens 1000000 --per month --mode strict --tenant acme
    """
    options: dict[str, Any] = {"per": per, "key": key, "user": user, "on_crash": on_crash, "mode": mode}
    quota = with_client(lambda client: client.set_quota(cast("Any", measure), limit, **options))
    _show([quota], as_json=as_json)


@command(app)
def remove(quota_id: Annotated[UUID, typer.Argument(metavar="ID", help="The quota's id.")]) -> None:
    """Remove a quota, with all that was counted for it.

    penstock quota remove 6f9619ff-8b86-4d01-b42d-00cf4fc964ff --tenant acme
    """
    with_client(lambda client: client.remove_quota(quota_id))


def _show(quotas: Sequence[Quota], *, as_json: bool) -> None:
    import msgspec

    if wants_json(as_json):
        print_json(msgspec.to_builtins(quotas))
    else:
        print_table(_COLUMNS, map(_row, quotas))


def _row(quota: Quota) -> Sequence[object]:
    user = "every user" if quota.user == "*" else f"user {quota.user}"
    whom = f"key {quota.key}" if quota.key else user if quota.user else "tenant"
    resets = "" if quota.resets_at is None else local_time(quota.resets_at)
    used = [("" if number is None else number) for number in (quota.used, quota.reserved)]
    measure = f"{quota.measure} (strict)" if quota.mode == "strict" else quota.measure
    return (quota.id, measure, quota.per or "", whom, quota.limit, *used, resets)
