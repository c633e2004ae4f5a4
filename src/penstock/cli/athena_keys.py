"""``penstock athena key``: the credentials with which Athena's clients sign their requests."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from penstock.cli.gateway import command, with_client
from penstock.cli.moments import ahead
from penstock.cli.output import AsJson, local_time, print_json, print_table, wants_json

app = typer.Typer(
    help="Manage the credentials of applications, through the gateway at PENSTOCK_URL. This needs the scope "
    "tenant:admin.",
    no_args_is_help=True,
)

_ONCE = "The secret and the key are shown only now, and cannot be shown again. Keep them in a safe place."


@command(app)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the credentials are for.")],
    app_id: Annotated[str, typer.Option("--app-id", metavar="ID", help="The app id that its requests state.")],
    services: Annotated[
        list[str] | None, typer.Option("--services", metavar="NAME,…", help="Only these services (models).")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="When they expire: a time, or from now (90d)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key with an API key and a secret beside it, and print them. The secret cannot be shown again.

    penstock athena key create "scanner app" --app-id scanner --services ocr,asr
    """
    expires_at = None if expires is None else ahead(expires, "--expires")
    names = [one.strip() for stated in services or () for one in stated.split(",") if one.strip()]
    created = with_client(
        lambda client: client.create_athena_key(name, app_id, services=names or None, expires_at=expires_at)
    )
    if wants_json(as_json):
        print_json(created)
        sys.stdout.flush()
        typer.echo(f"penstock: {_ONCE}", err=True)
        return
    print_table(("field", "value"), [*_fields(created), ("api_secret", created["api_secret"]), ("key", created["key"])])
    typer.echo(f"\n{_ONCE}")


@command(app, "list")
def list_keys(as_json: AsJson = False) -> None:
    """List the tenant's credentials, the oldest first.

    penstock athena key list --tenant acme
    """
    found = with_client(lambda client: client.athena_keys())
    if wants_json(as_json):
        print_json(found)
        return
    rows = ([value for _, value in _fields(one)] for one in found)
    print_table(("id", "name", "app id", "api_key", "services", "created", "last used", "state"), rows)


@command(app)
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as list shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key with its credentials; their open requests end within two seconds.

    penstock athena key revoke 3Kf0aQ9ZpL2m
    """
    revoked = with_client(lambda client: client.revoke_athena_key(key_id))
    if wants_json(as_json):
        print_json(revoked)
    else:
        print_table(("field", "value"), _fields(revoked))


def _fields(one: dict[str, Any]) -> list[tuple[str, object]]:
    services = one.get("services")
    last_used = _time(one.get("last_used_at"))
    return [
        ("id", one["id"]),
        ("name", one["name"]),
        ("app_id", one["app_id"]),
        ("api_key", one["api_key"]),
        ("services", "all" if services is None else ", ".join(services) or "none"),
        ("created", local_time(datetime.fromisoformat(one["created_at"]))),
        ("last used", "never" if last_used is None else local_time(last_used)),
        ("state", _state(one)),
    ]


def _state(one: dict[str, Any]) -> str:
    revoked_at, expires_at = _time(one.get("revoked_at")), _time(one.get("expires_at"))
    if revoked_at is not None:
        return f"revoked {local_time(revoked_at)}"
    if expires_at is None:
        return "valid"
    word = "expired" if expires_at <= datetime.now(UTC) else "valid until"
    return f"{word} {local_time(expires_at)}"


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
