"""Objects that the jobs of all tenants share in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from penstock.callbacks.targets import CallbackTargets
from penstock.events.recent import RecentRows
from penstock.jobs.admissions import Admissions
from penstock.jobs.claims import ClaimQueue, FullScans, LaneCursors
from penstock.jobs.limits import JobLimits
from penstock.jobs.names import ClaimNames
from penstock.jobs.places import Places
from penstock.jobs.polling import ReadyPolls
from penstock.jobs.results import Results
from penstock.jobs.usage import Charging, unpriced
from penstock.jobs.work import ClaimedJob
from penstock.jobs.writers import Observe
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Keys, Wakeups


class FinishWaiters:
    """Callers that wait for the end of jobs."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Event]] = {}  # by UUID.hex

    @contextmanager
    def waiting(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """Yield an event that is set when the job may have finished."""
        news = asyncio.Event()
        self._waiters.setdefault(job_id.hex, set()).add(news)
        try:
            yield news
        finally:
            waiters = self._waiters[job_id.hex]
            waiters.discard(news)
            if not waiters:
                del self._waiters[job_id.hex]

    def wake(self, keys: Keys) -> None:
        """Wake the waiters of these jobs, or of all."""
        if not self._waiters:
            return
        for job_id in list(self._waiters) if keys is None else keys:
            for news in self._waiters.get(job_id, ()):
                news.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The database, the wake-ups and the waiters of one process.

    ``observe_batch`` is called with the kind ("create", "complete", "fail", "heartbeat") and size of each group commit.
    ``results`` has copies of completed jobs, ``recent_rows`` the newest rows of events.
    """

    database: Database
    limits: JobLimits
    wakeups: Wakeups
    observe_batch: Observe | None
    admissions: Admissions
    claims: ClaimQueue
    polls: ReadyPolls
    places: Places
    charging: Charging = unpriced
    results: Results | None = None
    recent_rows: RecentRows | None = None
    callbacks: CallbackTargets | None = None  # None: this process accepts no submissions
    claiming: set[asyncio.Future[list[ClaimedJob]]] = field(default_factory=set)  # statements in flight
    cursors: LaneCursors = field(default_factory=LaneCursors)
    full_scans: FullScans = field(default_factory=FullScans)
    names: ClaimNames = field(default_factory=ClaimNames)
    finish_waiters: FinishWaiters = field(default_factory=FinishWaiters)
