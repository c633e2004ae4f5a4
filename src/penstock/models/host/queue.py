"""The calls that wait for the replicas of one version: which goes to which, and which go together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from penstock.errors import ModelUnavailable
from penstock.models.host.calls import LiveCall
from penstock.models.host.fleet import Fleet
from penstock.models.host.metrics import Measures
from penstock.models.host.replica import Replica
from penstock.models.manifest import Model

_AHEAD_SECONDS: Final = 0.001  # work that is sent to a busy replica, so that it need not wait for the next call
_MOST_AHEAD: Final = 16  # calls
_SMOOTHING: Final = 0.1  # weight of the newest call in the time that calls take
_LONGEST_ESTIMATE: Final = 60  # seconds


class CallQueue:
    """Calls in order. ``together`` is how many of them a replica answers at once; ``on_company`` is called when a batch
    has waited long enough for more."""

    def __init__(self, model: Model, fleet: Fleet, measures: Measures, on_company: Callable[[], None]) -> None:
        self.together = 1
        self._model = model
        self._fleet = fleet
        self._measures = measures
        self._on_company = on_company
        self._calls: deque[LiveCall] = deque()
        self._company: asyncio.TimerHandle | None = None  # a batch waits for more calls
        self._seconds = 1.0  # what a call takes in the model, smoothed

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        """Whether no more calls may wait."""
        return len(self._calls) >= self._model.manifest.queue

    def add(self, call: LiveCall) -> None:
        """The last in the queue."""
        self._calls.append(call)

    def put_back(self, calls: Sequence[LiveCall]) -> None:
        """They were sent in vain, and are the first again."""
        self._calls.extendleft(reversed(calls))

    def remove(self, call: LiveCall) -> None:
        """Its caller has gone."""
        with suppress(ValueError):
            self._calls.remove(call)

    def send_now(self, call: LiveCall) -> bool:
        """Send a call past the empty queue; False where no replica has a free place."""
        replica = self._free_replica()
        if replica is None:
            return False
        self._send(replica, [call])
        return True

    def send(self) -> None:
        """Send what can be sent."""
        while self._calls:
            replica = self._free_replica()
            if replica is None or self._waits_for_company():
                return
            self._send(replica, [self._calls.popleft() for _ in range(min(self.together, len(self._calls)))])

    def fail(self, reason: str) -> None:
        """Nobody will answer those that wait."""
        taken = list(self._calls)
        self._calls.clear()
        for call in taken:
            call.fail(ModelUnavailable(reason))

    def took(self, seconds: float) -> None:
        """A call was answered after so long in the model."""
        self._seconds += _SMOOTHING * (seconds - self._seconds)

    def wait_estimate(self) -> timedelta:
        """When there may be room again: the time that the queue takes."""
        places = max(1, len(self._fleet.replicas)) * self._model.concurrency
        size = self._model.manifest.batching.max_size if self._model.manifest.batching else 1
        seconds = math.ceil(len(self._calls) * self._seconds / places / size)
        return timedelta(seconds=min(_LONGEST_ESTIMATE, max(1, seconds)))

    def _free_replica(self) -> Replica | None:
        """The ready replica with the fewest calls in flight, if it has a free place."""
        best = self._fleet.least_loaded()
        if best is None:
            return None
        places = self._model.concurrency
        if best.busy < places or (self._model.manifest.batching is None and best.busy < places + self._ahead()):
            return best
        return None

    def _ahead(self) -> int:
        """How many calls may be sent before a place is free: as many as a very quick model does in a moment."""
        return min(_MOST_AHEAD, int(_AHEAD_SECONDS / self._seconds)) if self._seconds < _AHEAD_SECONDS else 0

    def _waits_for_company(self) -> bool:
        """Whether a batch that is not full waits a little longer. A call that finds a replica idle never comes here."""
        batching = self._model.manifest.batching
        if batching is None or not batching.max_wait_ms or len(self._calls) >= batching.max_size:
            return False
        left = self._calls[0].accepted_at + batching.max_wait_ms / 1000 - time.perf_counter()
        if left <= 0:
            return False
        if self._company is None:
            self._company = asyncio.get_running_loop().call_later(left, self._company_over)
        return True

    def _company_over(self) -> None:
        self._company = None
        self._on_company()

    def _send(self, replica: Replica, calls: Sequence[LiveCall]) -> None:
        if len(calls) == 1:
            replica.send(calls[0], ahead=replica.busy >= self._model.concurrency)
        else:
            self._measures.batched(len(calls))
            replica.send_batch(calls)
