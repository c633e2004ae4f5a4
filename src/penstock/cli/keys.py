"""``penstock key``: the keys of a tenant."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from penstock.cli import key_views
from penstock.cli.gateway import command, with_client
from penstock.cli.moments import ahead, length
from penstock.cli.output import AsJson

app = typer.Typer(
    help="Manage the keys of a tenant, through the gateway at PENSTOCK_URL. This needs the scope tenant:admin.",
    no_args_is_help=True,
)

_ALL: Final = "all"
_NEVER: Final = "never"

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id: the part between ps_ and the next _.")]
Scopes = Annotated[
    list[str],
    typer.Option("--scopes", "--scope", metavar="SCOPE,…", help="What it allows; all: every scope of a tenant."),
]
Models = Annotated[list[str] | None, typer.Option("--models", metavar="NAME,…", help="Only these models.")]
Queues = Annotated[
    list[str] | None, typer.Option("--queues", metavar="TYPE/PROFILE,…", help="Only these queues of jobs.")
]
Apps = Annotated[list[str] | None, typer.Option("--apps", metavar="NAME,…", help="Only these apps.")]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="When it expires: a time, or from now, such as 90d.")
]


@command(app)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scopes: Scopes,
    models: Models = None,
    queues: Queues = None,
    apps: Apps = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Create a key, and print it. It cannot be shown again, because only a digest is stored.

    penstock key create "web shop" --tenant acme --scopes jobs:submit,jobs:read --expires 90d

    penstock key create admin --tenant acme --scopes all

    A key gives at most the rights of the key that creates it.
    """
    expires_at = None if expires is None else ahead(expires, "--expires")
    created = with_client(
        lambda client: client.create_key(
            name,
            _scopes(scopes),
            models=_names(models),
            queues=_names(queues),
            apps=_names(apps),
            expires_at=expires_at,
        )
    )
    key_views.show_created(created, as_json=as_json)


@command(app, "list")
def list_keys(as_json: AsJson = False) -> None:
    """List the tenant's keys, the oldest first.

    penstock key list --tenant acme
    """
    key_views.show_keys(with_client(lambda client: client.keys()), as_json=as_json)


@command(app)
def show(key_id: KeyId, as_json: AsJson = False) -> None:
    """Show one key with all details, without its text.

    penstock key show 3Kf0aQ9ZpL2m
    """
    key_views.show_key(with_client(lambda client: client.key(key_id)), as_json=as_json)


@command(app)
def change(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    scopes: Annotated[
        list[str] | None, typer.Option("--scopes", "--scope", metavar="SCOPE,…", help="What it allows from now on.")
    ] = None,
    models: Annotated[list[str] | None, typer.Option(metavar="NAME,…", help="Only these models; all: any.")] = None,
    queues: Annotated[
        list[str] | None, typer.Option(metavar="TYPE/PROFILE,…", help="Only these queues of jobs; all: any.")
    ] = None,
    apps: Annotated[list[str] | None, typer.Option(metavar="NAME,…", help="Only these apps; all: any.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it expires: a time, from now (90d), or never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a key. Open requests that it no longer allows end within two seconds.

    penstock key change 3Kf0aQ9ZpL2m --scopes jobs:read --expires never
    """
    fields: dict[str, Any] = {}
    if name is not None:
        fields["name"] = name
    if scopes:
        fields["scopes"] = _scopes(scopes)
    for field, stated in (("models", models), ("queues", queues), ("apps", apps)):
        if stated:
            fields[field] = None if stated == [_ALL] else _names(stated)
    if expires is not None:
        fields["expires_at"] = None if expires == _NEVER else ahead(expires, "--expires")
    if not fields:
        raise typer.BadParameter("state what to change, such as --scopes or --expires")
    key_views.show_key(with_client(lambda client: client.change_key(key_id, **fields)), as_json=as_json)


@command(app)
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key for good; its open requests end within two seconds.

    penstock key revoke 3Kf0aQ9ZpL2m
    """
    key_views.show_key(with_client(lambda client: client.revoke_key(key_id)), as_json=as_json)


@command(app)
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(metavar="DURATION", help="How long the old key stays valid.")] = "1d",
    as_json: AsJson = False,
) -> None:
    """Create a key with the same rights, and print it, only now; the old one expires after the overlap.

    penstock key rotate 3Kf0aQ9ZpL2m --overlap 2h
    """
    both = length(overlap, "--overlap")
    key_views.show_created(with_client(lambda client: client.rotate_key(key_id, overlap=both)), as_json=as_json)


def _scopes(stated: list[str]) -> list[str]:
    """Return the scopes of options, checked here because a mistake has a better hint than the gateway can give."""
    from penstock.suggestions import did_you_mean
    from penstock.tenants import scopes

    found = _names(stated) or []
    if found == [_ALL]:
        return [scope for scope in scopes.MEANINGS if scope in scopes.OF_TENANTS]
    for scope in found:
        if scope not in scopes.ALL:
            known = ", ".join(scopes.MEANINGS)
            detail = f"{scope!r} is not a scope{did_you_mean(scope, scopes.ALL)}; there are: {known}, or all"
            raise typer.BadParameter(detail, param_hint="--scopes")
    return found


def _names(stated: list[str] | None) -> list[str] | None:
    """Return the names of an option that may be repeated and may hold several separated by commas."""
    if stated is None:
        return None
    return list(dict.fromkeys(name.strip() for one in stated for name in one.split(",") if name.strip())) or None
