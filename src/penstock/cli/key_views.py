"""Keys as tables for a terminal; programs get the same data as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import typer

from penstock.cli.output import local_time, print_json, print_table, wants_json

if TYPE_CHECKING:
    from penstock.access.key import CreatedKey, Key

_ONCE = "This key is shown only now, and cannot be shown again. Keep it in a safe place."


def show_created(created: CreatedKey, *, as_json: bool) -> None:
    """Print a new key with its text."""
    if wants_json(as_json):
        print_json(msgspec.to_builtins(created))
        sys.stdout.flush()
        typer.echo(f"penstock: {_ONCE}", err=True)
        return
    typer.echo(created.key)
    typer.echo(f"\n{_ONCE}\n")
    print_table(("field", "value"), _fields(created))


def show_key(key: Key, *, as_json: bool) -> None:
    """Print one key in full."""
    if wants_json(as_json):
        print_json(msgspec.to_builtins(key))
    else:
        print_table(("field", "value"), _fields(key))


def show_keys(keys: Sequence[Key], *, as_json: bool) -> None:
    """Print keys, one per row."""
    if wants_json(as_json):
        print_json(msgspec.to_builtins(keys))
        return
    rows = (
        (key.id, key.name, " ".join(key.scopes), _limits(key), local_time(key.created_at), _used(key), _state(key))
        for key in keys
    )
    print_table(("id", "name", "scopes", "limited to", "created", "last used", "state"), rows)


def _fields(key: Key) -> list[tuple[str, object]]:
    stated = {
        "id": key.id,
        "name": key.name,
        "scopes": ", ".join(key.scopes),
        "models": _listed(key.models),
        "queues": _listed(key.queues),
        "apps": _listed(key.apps),
        "created": local_time(key.created_at),
        "created by": key.created_by or "AI_SERVICE_TOKEN",
        "last used": _used(key),
        "state": _state(key),
    }
    return list(stated.items())


def _listed(names: Sequence[str] | None) -> str:
    return "all" if names is None else ", ".join(names) or "none"


def _limits(key: Key) -> str | None:
    lists = (("models", key.models), ("queues", key.queues), ("apps", key.apps))
    return "; ".join(f"{field} {_listed(names)}" for field, names in lists if names is not None) or None


def _used(key: Key) -> str:
    return "never" if key.last_used_at is None else local_time(key.last_used_at)


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {local_time(key.revoked_at)}"
    replaced = "" if key.replaced_by is None else f", replaced by {key.replaced_by}"
    if key.expires_at is None:
        return f"valid{replaced}"
    word = "expired" if key.expires_at <= datetime.now(UTC) else "valid until"
    return f"{word} {local_time(key.expires_at)}{replaced}"
