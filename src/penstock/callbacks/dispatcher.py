"""The housekeeper's duty that sends deliveries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import asyncpg

from penstock.batching import Batching
from penstock.callbacks import deliveries
from penstock.callbacks.announcing import ENDPOINTS
from penstock.callbacks.channels import Channels, TenantChannel
from penstock.callbacks.deliveries import EndpointKey, Lease, Outcome
from penstock.callbacks.line import Line, Pace, Shared
from penstock.callbacks.marketplace import Marketplace
from penstock.callbacks.message import Details
from penstock.callbacks.presence import Presence
from penstock.callbacks.sealing import Sealing
from penstock.callbacks.sender import Sender
from penstock.callbacks.slots import Slots
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.processes.periodic import Periodic
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

LEASE: Final = timedelta(seconds=30)
_RENEW_SECONDS: Final = 10.0
_CHECK_SECONDS: Final = 1.0
_CROWDED: Final = timedelta(milliseconds=250)  # between two passes while a tenant has its maximum number of lines
_RECORD_PAUSE: Final = 0.01  # seconds between two statements that record outcomes
_STOP_SECONDS: Final = 5.0  # for requests in flight when the process stops
_UNLUCKY: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class _Class:
    """Endpoints that share slots: the quick ones, or the others. New ones, slow ones and failing ones are not quick."""

    def __init__(self, *, quick: bool, slots: int, lines: int, pace: Pace) -> None:
        self.quick = quick
        self.slots = Slots(slots)
        self.pace = pace
        self._lines = lines
        self._held: Counter[TenantId] = Counter()

    @property
    def wanted(self) -> int:
        """The number of endpoints to lease next: half of the free lines."""
        return (self._lines - self._held.total() + 1) // 2

    @property
    def full(self) -> list[TenantId]:
        """The tenants that have more lines than are free: they get no more, so that others always find some."""
        free = self._lines - self._held.total()
        return [tenant for tenant, held in self._held.items() if held >= free]

    def begin(self, tenant: TenantId) -> None:
        self._held[tenant] += 1

    def end(self, tenant: TenantId) -> None:
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]


class CallbackDispatcher(Periodic):
    """Leases endpoints that are due and runs a line for each. Any number of processes may do so at once.

    New deliveries wake it, but not every change of a job; a lost wake-up costs ``idle_interval``.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        *,
        sender: Sender,
        sealing: Sealing,
        details: Mapping[str, Details],
        marketplace: Marketplace | None = None,
        concurrency: int = 16,
        lease: timedelta = LEASE,
        interval: timedelta = timedelta(milliseconds=10),
        idle_interval: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(interval=interval, idle_interval=idle_interval)
        self._database = database
        tenants = TenantChannel(database=database, sender=sender, details=details)
        self._channels = Channels(tenants=tenants, marketplace=marketplace)
        self._lease = lease
        self._records: Batching[Outcome, bool] = Batching(self._record, unlucky=_UNLUCKY)
        self._around = Shared(database=database, channels=self._channels, sealing=sealing, record=self._records.put)
        quick = Pace(
            concurrency=concurrency, page=256, page_bytes=2**18, body_bytes=2**21, connections=asyncio.Semaphore(4)
        )
        slow = Pace(
            concurrency=min(concurrency, 4),
            page=8,
            page_bytes=2**16,
            body_bytes=2**19,
            connections=asyncio.Semaphore(2),
        )
        self._classes = (
            _Class(quick=True, slots=256, lines=128, pace=quick),
            _Class(quick=False, slots=512, lines=384, pace=slow),
        )
        self._lines: dict[EndpointKey, Line] = {}
        self._tasks: dict[EndpointKey, asyncio.Task[None]] = {}
        self._by_endpoint: dict[str, Line] = {}
        self._renew_at = 0.0
        self._presence = Presence(database, self._gave_up)
        self._others = 0  # dispatchers that hold leases
        self._check_at = 0.0  # when to check for dispatchers that are gone
        wakeups.subscribe(ENDPOINTS, self._heard)

    @property
    def in_flight(self) -> int:
        """The number of requests in progress."""
        return sum(one.slots.taken for one in self._classes)

    def wake(self) -> None:
        """Do nothing: this duty listens to wake-ups of its own."""

    def _heard(self, keys: Keys) -> None:
        for name in list(self._by_endpoint) if keys is None else keys:
            line = self._by_endpoint.get(name)
            if line is not None:
                line.wake()
        if keys is None or any(name not in self._by_endpoint for name in keys):
            super().wake()

    async def once(self) -> bool:
        loop = asyncio.get_running_loop()
        more = False
        holder = await self._presence.number()
        async with self._database.acquire() as connection:
            if loop.time() >= self._check_at:
                self._others = await deliveries.free_abandoned(connection, holder)
                self._check_at = loop.time() + _CHECK_SECONDS
            if self._lines and loop.time() >= self._renew_at:
                await self._renew(connection)
            due = await deliveries.next_due(connection)
            if due is not None and not due:
                for one in self._classes:
                    more = await self._lease_some(connection, one, holder) or more
                due = await deliveries.next_due(connection)
        self.due_in = self._next_pass(due)
        return more

    async def _lease_some(self, connection: asyncpg.Connection, one: _Class, holder: int) -> bool:
        """Lease endpoints of a class that are due, and begin a line for each; return whether there may be more."""
        began, wanted = asyncio.get_running_loop().time(), one.wanted
        if wanted <= 0:
            return False
        leased = await deliveries.lease(
            connection, quick=one.quick, full=one.full, limit=wanted, length=self._lease, holder=holder
        )
        for held in leased:
            self._begin(held, one, began)
        return len(leased) == wanted

    def _next_pass(self, due: timedelta | None) -> timedelta | None:
        """Return the time to the next pass if no wake-up comes earlier. The end of a line wakes this duty, too."""
        waits = []
        if self._others:
            waits.append(timedelta(seconds=_CHECK_SECONDS))
        if self._lines:
            left = self._renew_at - asyncio.get_running_loop().time()
            waits.append(timedelta(seconds=max(left, 0.0)))
        if due is not None:
            crowded = any(one.full or not one.wanted for one in self._classes)
            waits.append(max(due, _CROWDED) if crowded else due)
        return min(waits, default=None)

    def _begin(self, held: Lease, one: _Class, began: float) -> None:
        line = Line(held, self._around, one.slots, one.pace)
        line.valid_until = began + self._lease.total_seconds()
        if not self._lines:
            self._renew_at = began + min(_RENEW_SECONDS, self._lease.total_seconds() / 3)
        former = self._lines.get(held.key)
        if former is not None:  # its lease has ended
            former.lost()
        self._lines[held.key] = self._by_endpoint[held.endpoint_id.hex] = line
        one.begin(held.tenant)
        task = self._tasks[held.key] = asyncio.create_task(line.run())
        task.add_done_callback(lambda done: self._ended(line, one, done))

    def _ended(self, line: Line, one: _Class, task: asyncio.Task[None]) -> None:
        key = line.lease.key
        one.end(key[0])
        if self._lines.get(key) is line:
            del self._lines[key], self._tasks[key], self._by_endpoint[key[1].hex]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("callback_line_failed", endpoint=str(key[1]), exc_info=error)
        super().wake()

    def _gave_up(self) -> None:
        """Give up all leases, because others may take them: the lock that shows that this dispatcher lives is free."""
        for line in self._lines.values():
            line.lost()
        super().wake()

    async def _renew(self, connection: asyncpg.Connection) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        lines = list(self._lines.values())
        held = await deliveries.renew(connection, [line.lease for line in lines], length=self._lease)
        for line in lines:
            if line.lease.key in held:
                line.valid_until = began + self._lease.total_seconds()
            else:
                line.lost()
        self._renew_at = began + min(_RENEW_SECONDS, self._lease.total_seconds() / 3)

    async def _record(self, outcomes: Sequence[Outcome]) -> list[bool | BaseException]:
        async with self._database.acquire() as connection:
            found = await deliveries.record(connection, outcomes)
        await asyncio.sleep(
            _RECORD_PAUSE
        )  # receivers do not wait for this, and larger statements cost less per outcome
        return [(one.lease.endpoint_id, one.key) in found for one in outcomes]

    async def stop(self) -> None:
        """Stop after the requests in flight, or after a few seconds."""
        await super().stop()
        for line in self._lines.values():
            line.leave()
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._records.drain()
        await self._presence.close()
        await self._channels.close()
