"""Publishes the flows of a runner in the database, where gateways find their schemas."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from typing import Final

from penstock.errors import DatabaseUnavailable
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.flows.sql import catalogue
from penstock.jobs.announcements import announce_mail
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_INTERVAL: Final = timedelta(seconds=10)  # between the times at which runners show that they are alive
_RETRY: Final = timedelta(seconds=1)


class Publishing:
    """Keeps the rows of the flows that the process has. Releases held runs when the code of their flow has changed."""

    def __init__(self, database: Database, jobs: JobService, process: FlowProcess) -> None:
        self.code = ""  # a hash of the code that the process has
        self._database = database
        self._jobs = jobs
        self._process = process
        self._changed = asyncio.Event()
        process.on_change(self._changed.set)

    async def run(self) -> None:
        """Publish periodically and after each change, until cancelled."""
        while True:
            self._changed.clear()
            try:
                await self.once()
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY.total_seconds())
                continue
            await set_within(self._changed, _INTERVAL.total_seconds())

    async def once(self) -> None:
        """Publish the flows, and release the runs that other code has held."""
        flows = list(self._process.flows.values())
        self.code = await asyncio.to_thread(fingerprint, self._process.folders)
        async with self._database.acquire() as connection:
            await catalogue.publish(connection, flows, code=self.code)
            released = await catalogue.release_held(
                connection, [f"{flow.name}@{flow.version}" for flow in flows], code=self.code
            )
        for tenant, mailed in released.items():
            log.info("runs_released", runs=len(mailed.runs))
            announce_mail(self._jobs.wakeups, tenant, mailed)
            self._jobs.admissions.request(mailed.blocked)


def fingerprint(folders: FlowFolders) -> str:
    """Return a hash of all files of flow code."""
    found = hashlib.sha256()
    for path in sorted(path for root in folders.roots for path in root.rglob("*.py") if folders.concern(path)):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        found.update(folders.label(path).encode() + b"\0" + content + b"\0")
    return found.hexdigest()
