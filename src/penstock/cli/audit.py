"""``penstock audit``: who managed what, when and from where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.gateway import with_client
from penstock.cli.output import AsJson, local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.client.access import Recorded

_PAGE = 500


def audit(
    action: Annotated[str | None, typer.Option(metavar="NAME", help="Only this kind, such as key.create.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="ID", help="Only actions on this id or name.")] = None,
    before: Annotated[int | None, typer.Option(min=1, metavar="ID", help="Only actions before this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Print the audit log of the tenant, the newest action first.

    penstock audit --tenant acme --action key.create --limit 10
    """
    import msgspec

    found = with_client(lambda client: _actions(client, action, subject, before, limit))
    if wants_json(as_json):
        print_json(msgspec.to_builtins(found))
    else:
        print_table(("id", "at", "action", "subject", "key", "user", "from", "change"), (_row(one) for one in found))


async def _actions(
    client: Client, action: str | None, subject: str | None, before: int | None, limit: int
) -> list[Recorded]:
    """Return the newest ``limit`` actions that match, reading as many pages as necessary."""
    found: list[Recorded] = []
    while len(found) < limit:
        page = await client.audit(
            action=action, subject=subject, before=before, limit=min(_PAGE, limit - len(found))
        )  # fmt: skip
        found += page.actions
        before = page.next
        if before is None:
            break
    return found


def _row(one: Recorded) -> Sequence[object]:
    key = one.key_id or "AI_SERVICE_TOKEN"
    change = _change(one.before or {}, one.after or {})
    return (str(one.id), local_time(one.at), one.action, one.subject, key, one.user_id or None, one.address, change)


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the fields that changed, as ``field: old → new``, or ``field: new`` where there was none."""
    parts = []
    for field in dict.fromkeys([*before, *after]):
        values = [_text(values[field]) for values in (before, after) if field in values]
        if values != ["null"]:
            parts.append(f"{field}: {' → '.join(values)}")
    return "\n".join(parts) or None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
