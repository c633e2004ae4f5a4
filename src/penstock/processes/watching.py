"""Watch a folder for changes of its files."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final

import structlog
from watchfiles import Change, awatch

from penstock.processes.waiting import set_within

log = structlog.get_logger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # watchfiles logs every change, and programs write files

_GATHER_MILLISECONDS: Final = 100  # changes that belong together
_APPEARS_SECONDS: Final = 2.0  # between polls for a folder that does not exist
_RETRY_SECONDS: Final = 5.0
_MAX_FILES: Final = 10_000  # of new folders


def _files_of(changes: Collection[tuple[Change, str]]) -> list[Path]:
    """Return the paths that have changed, and the files in folders that have appeared; none if there are too many.

    Files that were written before a new folder was watched, or moved into place with it, have no event of their own.
    """
    found = {Path(path) for _, path in changes}
    for change, path in changes:
        if change is Change.added:
            for folder, _, files in os.walk(path):
                found.update(Path(folder, name) for name in files)
                if len(found) > _MAX_FILES:
                    return []
    return list(found)


async def watch(
    folder: Path, on_change: Callable[[Collection[Path]], Awaitable[None]], stopping: asyncio.Event
) -> None:
    """Call ``on_change`` with the files that have changed, or with none if they are not known, until ``stopping``.
    The folder may appear and disappear at any time."""
    while not stopping.is_set():
        if not folder.is_dir():  # noqa: ASYNC240  (a look-up, once in two seconds)
            await set_within(stopping, _APPEARS_SECONDS)
            if folder.is_dir():  # noqa: ASYNC240  (as above)
                await on_change(())
            continue
        try:
            async for changes in awatch(
                folder, stop_event=stopping, step=_GATHER_MILLISECONDS, watch_filter=None, yield_on_timeout=False
            ):
                await on_change(await asyncio.to_thread(_files_of, changes))
        except Exception as error:  # noqa: BLE001 - the folder has gone, the system's watches are used up, …
            log.warning("folder_not_watched", folder=str(folder), reason=str(error) or type(error).__name__)
            await set_within(stopping, _RETRY_SECONDS)
            await on_change(())
