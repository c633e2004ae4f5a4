"""``penstock top``: GPUs, containers, providers and queues, live."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.gateway import with_client
from penstock.cli.output import print_json

if TYPE_CHECKING:
    from penstock.cli.top_views import View
    from penstock.client import Client

_TIMEOUT_SECONDS: Final = 8.0  # for one frame; longer than the client's attempts to reach a gateway


def top(
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.2, max=3600.0, metavar="SECONDS", help="Time between polls.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame and exit; the default if the output is a pipe.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the sidecars report as JSON and exit.")] = False,
) -> None:
    """Watch the AI servers: GPUs, containers, vLLM, WhisperX, providers, queues. Ctrl-C ends it."""
    if as_json:
        print_json(with_client(lambda client: client.infra_status()))
    elif once or not sys.stdout.isatty():
        _print_once()
    else:
        with suppress(KeyboardInterrupt):
            with_client(lambda client: _watch(client, interval))


def _print_once() -> None:
    from rich.console import Console

    from penstock.cli import top_views

    view = with_client(_load)
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, top_views.COMFORTABLE_WIDTH))
    console.print(top_views.frame(view))
    if view.nothing:
        raise typer.Exit(1)


async def _watch(client: Client, interval: float) -> None:
    from rich.live import Live

    from penstock.cli import top_views

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            view = await _load(client)
            live.update(top_views.frame(view, height=live.console.height), refresh=True)
            await asyncio.sleep(interval)


async def _load(client: Client) -> View:
    """Return everything that one frame shows; a value that cannot be read is replaced by its error."""
    from penstock.cli.top_views import View

    infra, providers, stats = await asyncio.gather(
        _or_error(client.infra_status()), _or_error(client.providers_status()), _or_error(client.stats())
    )
    return View(url=client.url, infra=infra, providers=providers, stats=stats)


async def _or_error(call: Awaitable[Any]) -> Any:
    from penstock.errors import PenstockError

    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await call
    except TimeoutError:
        return PenstockError(f"no response within {_TIMEOUT_SECONDS:g} s")
    except PenstockError as error:
        return error
