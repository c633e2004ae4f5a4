"""A server's gate, which limits concurrent calls and decides when a call may begin.

Workers use it for providers, and replicas for models of the runtimes http and openai, so imports stay within the
standard library.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.failures import CallFailed, Category
from penstock.outbound.breaker import Breaker, BreakerState
from penstock.outbound.limits import RateLimit

_MESSAGE_LENGTH = 500  # characters of an error that are reported


@dataclass(frozen=True, slots=True, kw_only=True)
class LastFailure:
    """The last time a server failed. The message holds no secret."""

    category: Category
    message: str
    at: datetime


class GateClosed(Exception):
    """The gate stays closed for longer than its caller waits.

    ``limited`` is true if the server's rate limit closes it, and false if the server failed too often.
    """

    def __init__(self, reason: str, seconds: float, *, limited: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds
        self.limited = limited


@dataclass(eq=False, slots=True)
class _Waiting:
    """A call that waits for a slot. Its result is whether it is the breaker's trial, or GateClosed is raised."""

    granted: asyncio.Future[bool]
    deadline: float


class Slot:
    """One call's place at a gate. It is a class, which is faster than a generator, because every call uses one."""

    __slots__ = ("_gate", "_max_wait_seconds", "_trial")

    def __init__(self, gate: Gate, max_wait_seconds: float) -> None:
        self._gate = gate
        self._max_wait_seconds = max_wait_seconds
        self._trial = False

    async def __aenter__(self) -> None:
        self._trial = await self._gate.enter(self._max_wait_seconds)

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._gate.leave(error, trial=self._trial)


class Gate:
    """Lets up to ``concurrency`` calls through, in order, and none while the server limits us or its breaker is open.

    If ``per_minute`` is set, at most that many begin within any minute. It belongs to one process and one event loop.
    """

    def __init__(
        self, concurrency: int, *, per_minute: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.concurrency = concurrency
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._running = 0
        self._limit = RateLimit(per_minute)
        self._breaker = Breaker()
        self.last_failure: LastFailure | None = None
        self._timer: asyncio.TimerHandle | None = None  # when the queue is checked again

    def wait(self) -> float:
        """Return the seconds until a call may begin, not counting the wait for a free slot."""
        now = self._clock()
        return max(self._limit.wait(now), self._breaker.wait(now))

    @property
    def resting(self) -> bool:
        """Whether the server failed so often that it receives no calls for a while."""
        return self._breaker.wait(self._clock()) > 0

    @property
    def reason(self) -> str:
        """The reason why calls wait, for people to read."""
        if self._breaker.state is BreakerState.CLOSED:
            return "its rate limit is used up"
        last = f" (the last: {self.last_failure.message})" if self.last_failure is not None else ""
        return f"it failed {self._breaker.failures} times in a row{last}"

    def observe(self, status: int, headers: Mapping[str, str]) -> None:
        """Update the limits from the head of a response."""
        self._limit.observe(status, headers, self._clock())
        self._admit()

    def slot(self, max_wait_seconds: float) -> Slot:
        """Make one call inside the block ``async with gate.slot(…)``.

        Entering raises GateClosed, as soon as it is known, when the gate stays closed for more than
        ``max_wait_seconds``; the wait for other calls to end has no limit. A CallFailed that leaves the block counts as
        a failure; a cancelled call counts as neither a success nor a failure.
        """
        return Slot(self, max_wait_seconds)

    async def enter(self, max_wait_seconds: float) -> bool:
        """Wait for a slot and take it; return whether the call is the breaker's trial. See ``slot``."""
        if not self._queue and self._running < self.concurrency and not self.wait():
            return self._begin()
        waiting = _Waiting(asyncio.get_running_loop().create_future(), self._clock() + max_wait_seconds)
        self._queue.append(waiting)
        self._admit()
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            granted = waiting.granted
            if granted.cancelled() or granted.exception() is not None:
                self._admit()  # this removes the call from the queue
            else:  # it was granted at the same moment
                self._breaker.abandoned(trial=granted.result())
                self._running -= 1
                self._admit()
            raise

    def leave(self, error: BaseException | None, *, trial: bool) -> None:
        """Give the slot back; ``error`` is what left the block."""
        if error is None:
            self._breaker.succeeded(trial=trial)
        elif isinstance(error, CallFailed):
            self._note(error, trial=trial)
        else:
            self._breaker.abandoned(trial=trial)
        self._running -= 1
        self._admit()

    @property
    def running(self) -> int:
        """The number of running calls."""
        return self._running

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    def _begin(self) -> bool:
        self._limit.begin(self._clock())
        self._running += 1
        return self._breaker.begin()

    def _admit(self) -> None:
        """Let calls begin, refuse those that would wait too long, and schedule the next check of the queue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            if self._queue[0].granted.done():  # its caller has left
                self._queue.popleft()
                continue
            wait = self.wait()
            if wait > 0:
                self._refuse_late(wait)
                if self._queue:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._admit)
                return
            if self._running >= self.concurrency:
                return
            self._queue.popleft().granted.set_result(self._begin())

    def _refuse_late(self, wait: float) -> None:
        until = self._clock() + wait
        staying = deque[_Waiting]()
        for waiting in self._queue:
            if waiting.granted.done():
                continue
            if until > waiting.deadline:
                waiting.granted.set_exception(GateClosed(self.reason, wait, limited=not self.resting))
            else:
                staying.append(waiting)
        self._queue = staying

    def _note(self, error: CallFailed, *, trial: bool) -> None:
        if error.category is not Category.BAD_INPUT:
            message = error.message[:_MESSAGE_LENGTH]
            self.last_failure = LastFailure(category=error.category, message=message, at=datetime.now(UTC))
        if error.category in {Category.BAD_INPUT, Category.RATE_LIMITED}:  # the server works
            self._breaker.succeeded(trial=trial)
        else:
            self._breaker.failed(self._clock(), trial=trial)
