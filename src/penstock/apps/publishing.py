"""Publishes the apps of a worker in the database, where gateways find them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from penstock.apps import catalogue
from penstock.apps.catalogue import AppProblem, Published
from penstock.apps.folder import App, AppsFolder
from penstock.apps.manifest import FILE_NAME
from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.processes.watching import watch
from penstock.telemetry import logs

log = logs.get(__name__)

_INTERVAL: Final = timedelta(seconds=10)  # at which workers show that they are alive
_RETRY: Final = timedelta(seconds=1)
_MAX_DETAIL: Final = 2000  # characters

# Returns what is wrong with files of flows and models, by the file below the folder of apps.
Problems = Callable[[], Mapping[str, str]]


class AppPublishing:
    """Keeps the rows of the apps in a folder. ``others`` are the problems of the loaders of flows and models."""

    def __init__(self, database: Database, folder: AppsFolder, others: Problems) -> None:
        self._database = database
        self._folder = folder
        self._others = others
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the folder and begin to publish it; the database may be unavailable."""
        await asyncio.to_thread(self._folder.scan)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run()),
            loop.create_task(watch(self._folder.root, self._files_changed, self._stopping)),
        ]

    async def stop(self) -> None:
        """Stop publishing. Idempotent; safe if never started."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish_soon(self) -> None:
        """Publish again, because something that concerns apps has changed."""
        self._changed.set()

    async def once(self) -> None:
        """Publish the apps as they are now. Raises DatabaseUnavailable."""
        others = self._others()
        found = [_published(app, others) for app in self._folder.apps.values()]
        if not found:
            return
        async with self._database.acquire() as connection:  # each statement commits, and locks its rows in key order
            await catalogue.publish(connection, found)
            await catalogue.forget_broken(connection, [app.name for app in found if app.manifest is not None])

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self.once()
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY.total_seconds())
                continue
            except Exception:  # an unforeseen error must not end the publishing: the apps would become unavailable
                log.exception("apps_not_published")
                await asyncio.sleep(_RETRY.total_seconds())
                continue
            await set_within(self._changed, _INTERVAL.total_seconds())

    async def _files_changed(self, changed: Collection[Path]) -> None:
        concerned = (
            path.name == FILE_NAME or path.suffix == ".json" or path.parent == self._folder.root for path in changed
        )
        if not changed or any(concerned):
            await asyncio.to_thread(self._folder.scan)
            self.publish_soon()


def _published(app: App, others: Mapping[str, str]) -> Published:
    folder = app.folder.name
    problems = [
        AppProblem(file=f"{folder}/{FILE_NAME}", key=problem.field, detail=problem.detail[:_MAX_DETAIL])
        for problem in app.problems
    ]
    problems += [
        AppProblem(file=file, detail=detail[:_MAX_DETAIL])
        for file, detail in sorted(others.items())
        if file.startswith(f"{folder}/")
    ]
    version = "" if app.manifest is None else app.manifest.version
    return Published(name=app.name, version=version, manifest=app.manifest, problems=problems)
