"""A provider's gate: how many calls go to it at a time, and whether one may begin now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from penstock.models.runtimes.base import CallFailed
from penstock.providers.errors import category_of
from penstock.providers.limits import Breaker, BreakerState, RateLimit
from penstock.providers.reports import LastError, ProviderReport

_OURS = frozenset({"bad_input"})  # failures that say nothing against the provider


class NotNow(Exception):
    """A provider may not be asked for longer than one is willing to wait."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


class Gate:
    """Lets up to ``concurrency`` calls through, in order, and none while the provider limits us or its breaker is open;
    with ``per_minute``, so many within any minute.

    Of one process and one event loop. ``changed`` is called when a report would read otherwise.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._clock = clock
        self._changed = changed or (lambda: None)
        self._slots = asyncio.Semaphore(concurrency)
        self._running = 0
        self._limit = RateLimit(per_minute)
        self._breaker = Breaker()
        self._last_error: LastError | None = None

    def wait(self) -> float:
        """Seconds until a call may begin, apart from waiting for others to end."""
        now = self._clock()
        return max(self._limit.wait(now), self._breaker.wait(now))

    @property
    def resting(self) -> bool:
        """Whether it has failed so often that it is not asked for a while."""
        return self._breaker.state is not BreakerState.CLOSED and self._breaker.wait(self._clock()) > 0

    @property
    def reason(self) -> str:
        """Why calls wait, for people."""
        if self._breaker.state is BreakerState.CLOSED:
            return "it limits our rate"
        said = f" (the last: {self._last_error.message})" if self._last_error is not None else ""
        return f"it failed {self._breaker.failures} times in a row{said}"

    def heed(self, status: int, headers: Mapping[str, str]) -> None:
        """Learn from the head of an answer."""
        self._limit.heed(status, headers, self._clock(), beside=max(self._running - 1, 0))

    @asynccontextmanager
    async def turn(self, patience: float) -> AsyncIterator[None]:
        """The block is one call. Raises NotNow when the wait for the provider's sake exceeds ``patience`` seconds.

        A CallFailed that leaves the block is noted; what a call that is cancelled did is not known.
        """
        deadline = self._clock() + patience
        async with self._slots:
            while (wait := self.wait()) > 0:
                if self._clock() + wait > deadline:
                    raise NotNow(self.reason, wait)
                await asyncio.sleep(wait)
            self._begin()
            try:
                yield
            except CallFailed as error:
                self._note(error)
                raise
            except BaseException:
                self._breaker.abandoned()
                raise
            else:
                self._breaker.succeeded()
            finally:
                self._running -= 1
                self._changed()

    def report(self) -> ProviderReport:
        """How the provider stands with this process."""
        return ProviderReport(
            breaker=self._breaker.state.value,
            failures_in_a_row=self._breaker.failures,
            wait_seconds=round(self.wait(), 1),
            running=self._running,
            concurrency=self.concurrency,
            last_error=self._last_error,
        )

    def _begin(self) -> None:
        self._limit.begin(self._clock())
        self._breaker.begin()
        self._running += 1
        self._changed()

    def _note(self, error: CallFailed) -> None:
        if error.kind in _OURS:
            self._breaker.succeeded()
            return
        self._last_error = LastError(category=category_of(error), message=error.message[:500], at=datetime.now(UTC))
        if error.kind == "rate_limited":
            self._breaker.succeeded()
        else:
            self._breaker.failed(self._clock())
