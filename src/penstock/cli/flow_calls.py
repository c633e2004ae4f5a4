"""The requests that the flow commands send to the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final
from uuid import UUID

import msgspec

from penstock.cli import flow_views
from penstock.cli.output import print_json
from penstock.client import Client
from penstock.errors import NotFound, PenstockError

Json = dict[str, Any]

_DRAW_INTERVAL: Final = 0.5  # seconds, for durations
_READ_INTERVAL: Final = 2.0  # seconds after which the run is read without an event: waits end without one
_MAX_CHILDREN: Final = 50  # runs of child flows in one tree
_FINISHED: Final = frozenset({"completed", "failed", "cancelled"})


def plain(value: object) -> Json:
    """Return a struct as JSON objects."""
    found: Json = msgspec.to_builtins(value)
    return found


async def cancelled(client: Client, run_id: UUID, *, force: bool) -> Json:
    return plain(await client.cancel_run(run_id, force=force))


async def released(client: Client, run_id: UUID) -> Json:
    return plain(await client.release_run(run_id))


async def retried(client: Client, run_id: UUID) -> Json:
    return plain(await client.retry_run(run_id))


async def run_again(client: Client, run_id: UUID, step: int, options: Json) -> Json:
    return plain(await client.rerun(run_id, step=step, **options))


async def show(client: Client, run_id: UUID, *, watch: bool, as_json: bool) -> None:
    """Print a run with its steps; with ``watch``, keep the display up to date until it ends (JSON: print it then)."""
    if not as_json:
        await follow(client, run_id, show=True, once=not watch)
        return
    if watch:
        await client.wait(run_id)
    print_json(await client.run_tree(run_id))


async def follow(client: Client, run_id: UUID, *, show: bool, once: bool = False) -> None:
    """Draw the tree of a run, once or until it has ended."""
    if not show:
        await client.wait(run_id)
        return
    from rich.console import Console
    from rich.live import Live

    run, children = await _tree(client, run_id)
    if once or _is_over(run):
        Console().print(flow_views.tree_of(run, children))
        return
    changed = asyncio.Event()
    noticing = asyncio.create_task(_notice(client, run_id, run["last_event_id"], changed))
    try:
        with Live(flow_views.tree_of(run, children), auto_refresh=False) as live:
            read_at = time.monotonic()
            while not _is_over(run):
                await asyncio.sleep(_DRAW_INTERVAL)
                if changed.is_set() or time.monotonic() > read_at + _READ_INTERVAL:
                    changed.clear()
                    run, children = await _tree(client, run_id)
                    read_at = time.monotonic()
                live.update(flow_views.tree_of(run, children), refresh=True)
    finally:
        noticing.cancel()
        await asyncio.wait([noticing])


async def _notice(client: Client, run_id: UUID, after: str, changed: asyncio.Event) -> None:
    """Set ``changed`` at each event of a run and of all that it issues."""
    with contextlib.suppress(PenstockError):  # the run is read from time to time in any case
        async for _event in client.run_events(run_id, after=after):
            changed.set()


def _is_over(run: Json) -> bool:
    return run["run"]["status"] in _FINISHED


async def _tree(client: Client, run_id: UUID) -> tuple[Json, dict[str, Json]]:
    """Return a run, and the runs of the flows that it and they have called, by id."""
    root = await client.run_tree(run_id)
    children: dict[str, Json] = {}
    waiting = [root]
    while waiting and len(children) < _MAX_CHILDREN:
        for step in waiting.pop()["steps"]:
            if step["is_run"] and step["job_id"] not in children and len(children) < _MAX_CHILDREN:
                try:
                    child = await client.run_tree(step["job_id"])
                except NotFound:  # retention has dropped it
                    continue
                children[step["job_id"]] = child
                waiting.append(child)
    return root, children
