"""The claims of this process: the queue of waiting claims, and the points at which claims begin to scan."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from penstock.jobs.announcements import any_queue, queues_of
from penstock.jobs.sql.rows import TenantQueue
from penstock.jobs.work import ClaimRequest
from penstock.postgres.wakeups import Keys
from penstock.processes.waiting import set_within
from penstock.tenants.principal import TenantId

Kind = tuple[tuple[str, ...], tuple[str, ...]]  # the task types and the model profiles that a claim names


class Offer:
    """Places for jobs of one queue, offered to claims. ``refuse`` is called with the number of places that no claim
    takes."""

    __slots__ = ("_left", "_queue", "_refuse", "_trying")

    def __init__(self, queue: TenantQueue, places: int, trying: int, refuse: Callable[[int], None]) -> None:
        self._queue = queue
        self._left = places
        self._trying = trying
        self._refuse = refuse

    def tried(self, taken: Iterable[TenantQueue]) -> None:
        """Record that one of the claims has taken jobs of these queues."""
        self._left -= sum(one == self._queue or any_queue(one[0]) == self._queue for one in taken)
        self._trying -= 1
        if self._trying == 0 and self._left > 0:
            self._refuse(self._left)


class Waiter:
    """A claim that waits for jobs. ``idle`` while it has found none and does nothing but wait for ``news``.

    After its next statement, ``tried`` must be called for each of its ``offers``. It gets none while it has no slot.
    """

    __slots__ = ("_profiles", "_tasks", "_tenant", "has_slot", "idle", "kind", "limit", "news", "offers")

    def __init__(self, request: ClaimRequest, tenant: TenantId | None) -> None:
        self.kind: Kind = (tuple(request.task_types), tuple(request.model_profiles))
        self.limit = request.limit
        self.idle = False
        self.has_slot = True
        self.offers: list[Offer] = []
        self._tenant = tenant
        self._tasks = frozenset(request.task_types)
        self._profiles = frozenset(request.model_profiles)
        self.news = asyncio.Event()

    @property
    def of_all_tenants(self) -> bool:
        return self._tenant is None

    @property
    def alike(self) -> object:
        """A value that is equal for claims that want the same queues."""
        return (self._tenant, self.kind)

    def takes(self, kind: Kind) -> bool:
        """Return whether it is an idle claim of this kind and of all tenants."""
        return self.idle and self.of_all_tenants and self.kind == kind and not self.news.is_set()

    def wants(self, queue: TenantQueue) -> bool:
        tenant, task_type, model_profile = queue
        return (
            (self._tenant is None or tenant == self._tenant)
            and (not self._tasks or not task_type or task_type in self._tasks)
            and (not self._profiles or not model_profile or model_profile in self._profiles)
        )


class ClaimQueue:
    """Waiting claims in order of arrival. A wake-up wakes as many claims as it announces jobs, not all of them.

    Claims of a kind in ``pushed`` are woken by ``push`` only: a broker gives each announcement to one process.
    """

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self.pushed: set[Kind] = set()
        self.on_idle: Callable[[Kind], None] | None = None  # called when a claim of all tenants becomes idle

    @contextmanager
    def waiting(self, request: ClaimRequest, tenant: TenantId | None) -> Iterator[Waiter]:
        """Join the queue of waiting claims; ``news`` is set when work of the wanted kind is announced.

        The claim is for jobs of ``tenant``; None: of any.
        """
        waiter = Waiter(request, tenant)
        self._waiters[waiter] = None
        try:
            yield waiter
        finally:
            del self._waiters[waiter]
            for offer in waiter.offers:
                offer.tried(())

    async def wait(self, waiter: Waiter, seconds: float) -> bool:
        """Wait for news, for ``seconds`` at most; return whether there is any."""
        waiter.idle = True
        try:
            if self.on_idle is not None and waiter.of_all_tenants:
                self.on_idle(waiter.kind)
            return await set_within(waiter.news, seconds)
        finally:
            waiter.idle = False

    def idle(self, kind: Kind) -> bool:
        """Return whether a claim of this kind, of all tenants, has found no jobs and waits."""
        return any(waiter.takes(kind) for waiter in self._waiters)

    def push(self, kind: Kind, queue: TenantQueue, count: int) -> int:
        """Wake idle claims of this kind for ``count`` jobs; return how many they can take."""
        room = 0
        for waiter in self._waiters:
            if room >= count:
                break
            if waiter.takes(kind) and waiter.wants(queue):
                waiter.news.set()
                room += waiter.limit
        return min(room, count)

    def offer(self, queue: TenantQueue, places: int, refuse: Callable[[int], None]) -> None:
        """Wake claims of each kind for as many jobs of a queue as there are ``places``; ``refuse`` is called with the
        number that these claims did not take."""
        found: list[Waiter] = []
        room: Counter[Kind] = Counter()
        for waiter in self._waiters:
            able = waiter.has_slot and not waiter.news.is_set() and waiter.wants(queue)
            if able and room[waiter.kind] < places:
                room[waiter.kind] += waiter.limit
                found.append(waiter)
        if not found:
            refuse(places)
            return
        offer = Offer(queue, places, len(found), refuse)
        for waiter in found:
            waiter.offers.append(offer)
            waiter.news.set()

    def wake(self, keys: Keys) -> None:
        """Wake the claims that a wake-up on READY concerns."""
        if keys is None:
            for waiter in self._waiters:
                waiter.news.set()
            return
        for queue, count in queues_of(keys.items()):
            # The tenant's queue is not known, so any kind of claim may be able to take its jobs.
            woken: Counter[object] = Counter()
            for waiter in self._waiters:
                if waiter.kind in self.pushed and waiter.of_all_tenants:
                    continue
                kind = waiter.kind if queue == any_queue(queue[0]) else None
                if not waiter.news.is_set() and woken[kind] < count and waiter.wants(queue):
                    waiter.news.set()
                    woken[kind] += 1

    def wake_for(self, ready: Collection[TenantQueue]) -> None:
        """Wake all claims that want jobs of these queues, also those that wait for a broker.

        A claim that is refused such jobs, for example because their queue is paused, must not keep others waiting.
        """
        wanted: dict[object, bool] = {}  # many claims are alike
        for waiter in self._waiters:
            if waiter.idle and waiter.alike not in wanted:
                wanted[waiter.alike] = any(waiter.wants(queue) for queue in ready)
            if waiter.idle and wanted[waiter.alike]:
                waiter.news.set()

    def task_types(self) -> frozenset[str] | None:
        """Return the task types of all claims that have found no jobs and wait; none: any; None: no claim waits."""
        waiting = [waiter for waiter in self._waiters if waiter.idle]
        if not waiting:
            return None
        any_type = any(not waiter.kind[0] for waiter in waiting)
        return frozenset() if any_type else frozenset(kind for waiter in waiting for kind in waiter.kind[0])


class LaneCursors:
    """The point in each lane at which this process last stopped claiming.

    The rows before a cursor were taken by this process. They are dead, but they slow down an index scan while another
    client's long transaction keeps vacuum from removing them. Two kinds of live row can lie there as well. A submit may
    commit after one with higher numbers, so a cursor stays ``lag`` seconds behind the rows taken. Another claim may
    have locked rows and released them, so all cursors are forgotten every ``memory`` seconds, and the next claim begins
    at the lane's hint.
    """

    def __init__(self, *, lag: float = 0.2, memory: float = 2.0) -> None:
        self._lag = lag
        self._memory = memory
        self._taken: dict[int, int] = {}  # the number after the last row taken, by lane
        self._aging: dict[int, int] = {}
        self._settled: dict[int, int] = {}
        self._age_at = 0.0
        self._forget_at = 0.0

    def current(self) -> Mapping[int, int]:
        """Return the first number to scan, by lane."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._taken, self._aging, self._settled = {}, {}, {}
            self._forget_at = now + self._memory
            self._age_at = now + self._lag
        elif now >= self._age_at:
            self._settled, self._aging = self._aging, dict(self._taken)
            self._age_at = now + self._lag
        return self._settled

    def took(self, lane: int, seq: int) -> None:
        """Record that this process has taken the row ``seq``."""
        if seq >= self._taken.get(lane, 0):
            self._taken[lane] = seq + 1


class FullScans:
    """Decides when a claim that found nothing scans its lanes from the very start, ignoring cursors and hints.

    Such a scan finds a job that was committed late even when no housekeeper lowers the hints. It may pass many dead
    rows, so it runs every two seconds at most, and less often when it is slow: it takes at most a hundredth of the
    time. Polls for waiting claims follow the same rule.
    """

    def __init__(self, *, pause: float = 1.8) -> None:
        self._pause = pause
        self._next: dict[Hashable, float] = {}

    def due(self, kind: Hashable) -> bool:
        """Return whether a claim of this kind should scan from the start now."""
        return time.monotonic() >= self._next.get(kind, 0.0)

    def took(self, kind: Hashable, seconds: float) -> None:
        """Record how long a scan for this kind took."""
        if len(self._next) > 1000:
            self._next.clear()
        self._next[kind] = time.monotonic() + max(self._pause, 100 * seconds)
