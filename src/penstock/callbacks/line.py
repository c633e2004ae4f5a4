"""One endpoint in a dispatcher that has its lease: this reads, sends and records the deliveries of the endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import random
from typing import Any, Final

from penstock.callbacks import deliveries, rules
from penstock.callbacks.chains import Chains
from penstock.callbacks.channels import Channel, Channels, prepared
from penstock.callbacks.deliveries import Lease, Outcome, Target
from penstock.callbacks.endpoint import Attempt
from penstock.callbacks.message import Delivery, Key, Message
from penstock.callbacks.rules import Response, Result
from penstock.callbacks.sealing import CannotOpen, Sealing
from penstock.callbacks.slots import Slots, User
from penstock.errors import BlobStoreUnavailable, DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_LINGER_SECONDS: Final = 1.0  # for which the line of a quick endpoint without deliveries keeps its lease
_LATER_SECONDS: Final = 1.0  # between two reads of deliveries that are due again
_MAX_UNRECORDED: Final = 1024  # attempts whose outcome is not in the database yet
_RECORD_AGAIN_SECONDS: Final = 0.5  # while the database is unavailable
_CANNOT_SEND_REST: Final = timedelta(minutes=1)
_START: Final = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How the lines of a class work: ``concurrency`` requests at a time, and pages of deliveries.

    ``page_bytes`` bounds the data of a page, and ``body_bytes`` the bodies that a line holds; one more may exceed each.
    ``connections`` limits how many of these lines use the database at a time, so that a crowd of slow endpoints leaves
    connections of the pool for quick ones.
    """

    concurrency: int
    page: int
    page_bytes: int
    body_bytes: int
    connections: asyncio.Semaphore
    probing: int = 1  # the concurrency after a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the lines of one dispatcher share."""

    database: Database
    channels: Channels
    sealing: Sealing
    record: Callable[[Outcome], Awaitable[bool]]  # returns whether the lease held


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Some deliveries of an endpoint, as they were read, and what sends them."""

    channel: Channel
    again: Sequence[Delivery]  # those that are due again
    page: Sequence[Delivery]
    blocked: Collection[Key]  # of the page: an earlier delivery of their subject has failed


class Line:
    """The deliveries of one endpoint, sent in the order of each subject's events.

    Deliveries of one subject form a chain: only its first is in flight, and when that fails, the rest waits behind it
    in the database. A line ends when nothing is left, when the endpoint has to rest or belongs to another class of
    slots, and when its lease is lost.
    """

    def __init__(self, held: Lease, around: Shared, slots: Slots, pace: Pace) -> None:
        self.lease = held
        self.valid_until = 0.0  # loop time; set by the dispatcher, which renews the lease
        self._around = around
        self._slots = slots
        self._pace = pace
        self._user = User(tenant=held.tenant, endpoint_id=held.endpoint_id, ready=self._pump)
        self._chains = Chains()
        self._later: set[Key] = set()  # deliveries that were read from callback_later and are not recorded yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._failures = held.failures
        self._quick = held.quick
        self._behind: Key = _START
        self._exhausted = False
        self._news = asyncio.Event()  # deliveries were added
        self._changed = asyncio.Event()
        self._rest: timedelta | None = None
        self._leaving = False
        self._lost = False
        self._target: Target | None = None
        self._channel: Channel | None = None
        self._keys: Sequence[bytes] = ()
        self._next_later = 0.0

    # Called by the dispatcher

    def wake(self) -> None:
        """Read again, because deliveries were added."""
        self._news.set()
        self._changed.set()

    def lost(self) -> None:
        """End without touching the endpoint again: another dispatcher may have it."""
        self._lost = self._leaving = True
        self._changed.set()

    def leave(self) -> None:
        """End after the requests in flight, and release the endpoint."""
        self._leaving = True
        self._changed.set()

    async def run(self) -> None:
        """Work until the line ends."""
        try:
            await self._work()
            while self._tasks:
                await asyncio.wait(self._tasks)
            if not self._lost:
                await self._release()
        except DatabaseUnavailable:  # the lease ends by itself
            pass
        finally:
            self._slots.leave(self._user)
            for task in self._tasks:
                task.cancel()

    # Reading

    async def _work(self) -> None:
        while not self._leaving:
            self._changed.clear()
            more = not self._exhausted or self._news.is_set() or self._later_due()
            if more and self._has_room:
                await self._read()
                self._pump()
            elif not self._chains and not self._tasks:
                lingers = self.lease.quick and await set_within(self._changed, _LINGER_SECONDS)
                if not lingers and await self._finished():
                    return
            else:
                await set_within(self._changed, _LATER_SECONDS)

    @property
    def _has_room(self) -> bool:
        return self._chains.waiting <= self._pace.page // 2 and self._chains.size <= self._pace.body_bytes // 2

    def _later_due(self) -> bool:
        return not self._later and asyncio.get_running_loop().time() >= self._next_later

    async def _read(self) -> None:
        """Read the endpoint and the next deliveries, and make the bodies of as many of them as there is room for."""
        self._news.clear()
        async with self._pace.connections:
            found = await self._read_page()
            if found is None:
                return
            try:
                made = await prepared(
                    found.channel,
                    self.lease.tenant,
                    [*found.again, *found.page],
                    room=self._pace.body_bytes - self._chains.size,
                )
            except BlobStoreUnavailable as error:
                log.warning("callback_files_unavailable", endpoint=str(self.lease.endpoint_id), reason=error.message)
                self._leaving, self._rest = True, _CANNOT_SEND_REST
                return
        again, page = made[: len(found.again)], made[len(found.again) :]  # the others did not fit, and are read again
        self._exhausted = not found.page
        if page:
            self._behind = page[-1][0].key
        self._later |= {delivery.key for delivery, _ in again}
        for delivery, body in again:
            self._chains.append(delivery, body)
        for delivery, body in page:
            if delivery.key in found.blocked or self._chains.parked(delivery):
                self._start(self._record(delivery, "behind", timedelta(0), delivery.attempts))
            else:
                self._chains.append(delivery, body)

    async def _read_page(self) -> _Page | None:
        """Read the endpoint and the next deliveries; returns None if nothing may be sent."""
        async with self._around.database.acquire() as connection:
            target = await deliveries.read_endpoint(connection, self.lease)
            if target is None:
                self.lost()
                return None
            channel = self._open(target)
            if channel is None:
                return None
            page, blocked = await deliveries.read_ready(
                connection,
                self.lease,
                behind=self._behind,
                limit=self._pace.page,
                max_bytes=self._pace.page_bytes,
            )
            again: list[Delivery] = []
            if self._later_due():
                self._next_later = asyncio.get_running_loop().time() + _LATER_SECONDS
                again = await deliveries.read_later(
                    connection, self.lease, limit=self._pace.page, max_bytes=self._pace.page_bytes
                )
        return _Page(channel=channel, again=again, page=page, blocked=blocked)

    def _open(self, target: Target) -> Channel | None:
        """Note the endpoint's current settings; returns its channel, or None if nothing may be sent to it."""
        before, self._target = self._target, target
        if target.stopped or target.suspended:
            self._leaving = True
            self._rest = timedelta(minutes=1) if target.suspended else None
            return None
        if before is None or (before.sealed, before.previous_sealed) != (target.sealed, target.previous_sealed):
            try:
                self._keys = self._around.sealing.keys(self.lease.endpoint_id, target)
            except CannotOpen as error:
                log.error("callback_secret_unreadable", endpoint=str(self.lease.endpoint_id), reason=str(error))
                self._leaving, self._rest = True, _CANNOT_SEND_REST
                return None
        self._channel = self._around.channels.of(target)
        if self._channel is None:
            log.error("marketplace_unknown", reason="this process does not have MARKETPLACE_CALLBACK")
            self._leaving, self._rest = True, _CANNOT_SEND_REST
        return self._channel

    # Sending

    @property
    def _concurrency(self) -> int:
        return self._pace.probing if self._failures else self._pace.concurrency

    def _pump(self) -> None:
        """Send the first deliveries of chains, up to the concurrency."""
        loop = asyncio.get_running_loop()
        while (
            self._chains.ready
            and not self._leaving
            and self._in_flight < self._concurrency
            and len(self._tasks) < _MAX_UNRECORDED
            and loop.time() < self.valid_until
            and self._slots.take(self._user)
        ):
            self._in_flight += 1
            self._start(self._deliver(*self._chains.take()))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("callback_delivery_failed", endpoint=str(self.lease.endpoint_id), exc_info=error)
        self._changed.set()
        self._pump()

    async def _deliver(self, delivery: Delivery, body: bytes) -> None:
        """Send a delivery and record the outcome."""
        at = datetime.now(UTC)
        try:
            response = await self._send(delivery, body)
        finally:
            self._in_flight -= 1
            self._slots.give(self._user)
        verdict = rules.judge(response, delivery.tries + 1, jitter=random())
        self._judge_endpoint(response)
        followers = self._chains.end(delivery, failed=verdict.result is Result.AGAIN)
        self._leaving = self._leaving or self._chains.full
        self._pump()
        attempt = Attempt(
            at=at,
            seconds=round(response.seconds, 4),
            status=response.status,
            error=response.error,
            response=response.excerpt,
        )
        attempts = (*delivery.attempts, attempt)
        await self._record(delivery, verdict.result, verdict.delay, attempts, tries=delivery.tries + 1)
        for follower in followers:
            await self._record(follower, "behind", timedelta(0), follower.attempts)
        if response.gone:
            await self._disable(f"the receiver responded with status {response.status}")

    async def _send(self, delivery: Delivery, body: bytes) -> Response:
        assert self._target is not None and self._channel is not None  # noqa: S101, PT018 - it was read before
        message = Message(id=delivery.id(self.lease.tenant), timestamp=int(time.time()), body=body)
        return await self._channel.send(self._target, self._keys, message)

    def _judge_endpoint(self, response: Response) -> None:
        """Note the endpoint's state by a response. The line ends if the endpoint has to rest or changes its class."""
        self._failures = self._failures + 1 if response.down else 0
        rest = max(rules.rest_after(self._failures), response.requested_rest)
        if rest:
            self._rest = max(rest, self._rest or timedelta(0))
            self._leaving = True
        if response.success or response.down:
            self._quick = response.quick
        if self._quick is not self.lease.quick:
            self._leaving = True
            self._rest = self._rest or timedelta(0)
        if response.gone:
            self._leaving = True
        self._changed.set()

    # Recording

    async def _record(
        self,
        delivery: Delivery,
        result: str,
        delay: timedelta,
        attempts: tuple[Attempt, ...],
        *,
        tries: int | None = None,
    ) -> None:
        """Record an outcome; if the database is unavailable, try again for as long as the lease holds."""
        outcome = Outcome(
            lease=self.lease,
            key=delivery.key,
            result=result,
            delay=delay,
            tries=delivery.tries if tries is None else tries,
            attempts=attempts,
        )
        loop = asyncio.get_running_loop()
        while not self._lost:
            try:
                await self._around.record(outcome)
                break
            except DatabaseUnavailable:
                if loop.time() >= self.valid_until:
                    self.lost()
                    return
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)
        self._later.discard(delivery.key)

    async def _disable(self, reason: str) -> None:
        async with self._pace.connections, self._around.database.acquire() as connection:
            await deliveries.disable_gone(connection, self.lease, reason=reason)
        log.warning("callback_disabled", endpoint=str(self.lease.endpoint_id), reason=reason)

    async def _finished(self) -> bool:
        """End the lease unless deliveries were added."""
        if self._target is None or self._news.is_set():
            return False
        if await self._end_lease(rest=None):
            self._lost = self._leaving = True
            return True
        self._exhausted = False
        return False

    async def _release(self) -> None:
        if self._target is not None and self._target.stopped:
            async with self._pace.connections, self._around.database.acquire() as connection:
                await deliveries.park(connection, self.lease, arrivals=self._target.arrivals)
            return
        await self._end_lease(rest=self._rest or timedelta(0))

    async def _end_lease(self, *, rest: timedelta | None) -> bool:
        async with self._pace.connections, self._around.database.acquire() as connection:
            return await deliveries.release(
                connection,
                self.lease,
                arrivals=0 if self._target is None else self._target.arrivals,
                rest=rest,
                failures=self._failures,
                quick=self._quick,
            )
