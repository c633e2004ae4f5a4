"""``penstock ticket``: issue a ticket for a URL."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from penstock.cli.gateway import with_client
from penstock.cli.moments import length
from penstock.cli.output import AsJson, local_time, print_json, wants_json


def ticket(
    scopes: Annotated[
        list[str], typer.Option("--scopes", "--scope", metavar="SCOPE,…", help="Some of the scopes of your key.")
    ],
    user: Annotated[str | None, typer.Option(metavar="ID", help="The end user for whom it is issued.")] = None,
    job: Annotated[UUID | None, typer.Option(metavar="ID", help="It is valid for this job only.")] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is valid: at most 1h.")] = "1m",
    once: Annotated[bool, typer.Option("--once", help="It is valid for one request, such as a WebSocket.")] = False,
    as_json: AsJson = False,
) -> None:
    """Issue a ticket: a text for the query parameter ticket, for browsers that cannot send headers.

    penstock ticket --scopes jobs:read --job 01990000-0000-7000-8000-000000000007
    """
    import msgspec

    wanted = [name.strip() for one in scopes for name in one.split(",") if name.strip()]
    seconds = length(ttl, "--ttl")
    issued = with_client(lambda client: client.issue_ticket(wanted, user=user, job_id=job, ttl=seconds, once=once))
    if wants_json(as_json):
        print_json(msgspec.to_builtins(issued))
        return
    typer.echo(issued.ticket)
    typer.echo(f"\nIt is valid until {local_time(issued.expires_at)}. Send it as the query parameter ticket.")
