"""The calls that wait for the replicas of one version, their distribution to replicas, and their batches."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from penstock.errors import ModelUnavailable
from penstock.models.host.calls import LiveCall
from penstock.models.host.fleet import Fleet
from penstock.models.host.metrics import ModelMetrics
from penstock.models.host.replica import Replica
from penstock.models.host.sessions import LiveSession
from penstock.models.host.tenant_turns import TenantTurns
from penstock.models.manifest import Model

MAX_WAITING_BYTES: Final = 256 * 2**20  # inputs of all waiting calls of one version
_AHEAD_SECONDS: Final = 0.001  # work that is sent to a busy replica, so that it need not wait for the next call
_MAX_AHEAD: Final = 16  # calls
_MAX_AHEAD_BYTES: Final = 2**16  # of a call that is sent ahead
_SMOOTHING: Final = 0.1  # weight of the newest call in the time that calls take
_MAX_ESTIMATE_SECONDS: Final = 60


class CallQueue:
    """Waiting calls; the tenants that sent them take turns.

    ``together`` is how many a replica can run as one batch; ``on_change`` is called when a batch has waited long enough
    for more calls, and when a call was withdrawn.
    """

    def __init__(self, model: Model, fleet: Fleet, metrics: ModelMetrics, on_change: Callable[[], None]) -> None:
        self.together = 1
        self._model = model
        self._fleet = fleet
        self._metrics = metrics
        self._on_change = on_change
        self._calls = TenantTurns()
        self._bytes = 0
        self._batch_timer: asyncio.TimerHandle | None = None  # a batch waits for more calls
        self._seconds = 1.0  # the smoothed time of a call in the model
        self._ahead = 0  # calls that may be sent before a place is free
        self._withdraw = self.remove

    def __len__(self) -> int:
        return len(self._calls)

    def has_space(self, call: LiveCall) -> bool:
        """Whether a call may wait. The first call of a tenant may also do so where others have filled the queue, up to
        twice its length."""
        places = self._model.manifest.queue * (1 if self._calls.has(call.tenant) else 2)
        return len(self._calls) < places and (not self._calls or self._bytes + call.held_bytes <= MAX_WAITING_BYTES)

    def add(self, call: LiveCall) -> None:
        """Append a call."""
        call.withdraw = self._withdraw
        self._calls.append(call)
        self._bytes += call.held_bytes

    def requeue(self, calls: Sequence[LiveCall]) -> None:
        """Put calls back at the front, in order."""
        for call in reversed(calls):
            call.withdraw = self._withdraw
            self._calls.put_back(call)
            self._bytes += call.held_bytes

    def remove(self, call: LiveCall) -> None:
        """Remove a call whose caller has gone."""
        with suppress(ValueError):
            self._calls.remove(call)
            self._bytes -= call.held_bytes
        self._on_change()

    def send_now(self, call: LiveCall) -> bool:
        """Send a call without queueing it; return False if no replica has a free place."""
        replica = self._free_replica(call)
        if replica is None:
            return False
        replica.send((call,))
        return True

    def send(self) -> None:
        """Send the calls that can be sent."""
        while self._calls:
            replica = self._free_replica(self._calls.first())
            if replica is None or self._waits_for_more():
                return
            if self.together == 1 or len(self._calls) == 1 or isinstance(self._calls.first(), LiveSession):
                replica.send((self._next(),))
            else:
                batch = self._next_batch()
                self._metrics.count_batch(len(batch))
                replica.send(batch)

    def fail(self, reason: str) -> None:
        """Fail all calls that wait."""
        waiting = list(self._calls)
        self._calls.clear()
        self._bytes = 0
        for call in waiting:
            call.fail(ModelUnavailable(reason))

    def took(self, seconds: float) -> None:
        """Update the smoothed time of a call in the model."""
        self._seconds += _SMOOTHING * (seconds - self._seconds)
        self._ahead = min(_MAX_AHEAD, int(_AHEAD_SECONDS / self._seconds)) if self._seconds < _AHEAD_SECONDS else 0

    def wait_estimate(self) -> timedelta:
        """Return the estimated time until the calls that wait have been run, at least a second."""
        places = max(1, len(self._fleet.replicas)) * self._model.concurrency
        size = self._model.manifest.batching.max_size if self._model.manifest.batching else 1
        seconds = math.ceil(len(self._calls) * self._seconds / places / size)
        return timedelta(seconds=min(_MAX_ESTIMATE_SECONDS, max(1, seconds)))

    def _next(self) -> LiveCall:
        call = self._calls.pop()
        self._bytes -= call.held_bytes
        return call

    def _next_batch(self) -> list[LiveCall]:
        """Remove and return the next calls, up to a session, which runs alone."""
        batch = [self._next()]
        while len(batch) < self.together and self._calls and not isinstance(self._calls.first(), LiveSession):
            batch.append(self._next())
        return batch

    def _free_replica(self, call: LiveCall) -> Replica | None:
        """Return the ready replica with the fewest calls in flight, if ``call`` may be sent to it."""
        best = self._fleet.least_loaded()
        if best is None:
            return None
        free = self._model.concurrency - best.in_flight.busy
        if free > 0:
            return best
        if isinstance(call, LiveSession) or best.in_flight.sessions:
            return None  # a session takes as long as its caller likes: nothing waits behind one in a replica
        if self._model.manifest.batching is not None:
            return best if free == 0 and self._batches_abound() else None
        return best if free + self._ahead > 0 and call.size <= _MAX_AHEAD_BYTES else None

    def _batches_abound(self) -> bool:
        """Whether there is a full batch for every replica. If so, the next batch is sent before its replica is free: it
        cannot grow, and no other replica would take it earlier."""
        return self.together > 1 and len(self._calls) >= self.together * self._fleet.ready_count

    def _waits_for_more(self) -> bool:
        """Whether a batch that is not full should wait longer. Not used for a call that finds an idle replica."""
        batching = self._model.manifest.batching
        if batching is None or not batching.max_wait_ms or len(self._calls) >= batching.max_size:
            return False
        first = self._calls.first()
        if isinstance(first, LiveSession):
            return False
        left = first.accepted_at + batching.max_wait_ms / 1000 - time.perf_counter()
        if left <= 0:
            return False
        if self._batch_timer is None:
            self._batch_timer = asyncio.get_running_loop().call_later(left, self._batch_due)
        return True

    def _batch_due(self) -> None:
        self._batch_timer = None
        self._on_change()
