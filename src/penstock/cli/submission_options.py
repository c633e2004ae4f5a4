"""Options of the commands that submit jobs or start runs, which are jobs too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

Input = Annotated[str, typer.Option("--input", "-i", metavar="JSON", help="JSON, @FILE, or - for standard input.")]
Owner = Annotated[str, typer.Option("--owner-service", help="The caller on whose behalf it runs.")]
Reference = Annotated[str, typer.Option("--owner-ref", help="The caller's own reference.")]
Priority = Annotated[int | None, typer.Option(min=-100, max=100, help="Jobs with a higher priority start first.")]
RunAt = Annotated[datetime | None, typer.Option(help="Do not start it before this local time.")]
IdempotencyKey = Annotated[
    str | None, typer.Option(help="A repeated request with the same key returns the same job or run.")
]
NewTags = Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by; may be repeated.")]
CallbackUrl = Annotated[
    str | None, typer.Option("--callback", metavar="URL", help="Send the event with which it ends to this address.")
]
CallbackEvents = Annotated[
    list[str] | None, typer.Option("--callback-event", metavar="TYPE", help="Send these events instead, such as job.*.")
]


def callback_of(url: str | None, events: list[str] | None) -> dict[str, Any] | None:
    """Return the callback of a submission. Its secret would be in the shell's history: register an endpoint instead."""
    if url is None:
        if events:
            raise typer.BadParameter("--callback-event needs --callback")
        return None
    return {"url": url} if events is None else {"url": url, "events": events}
