"""Settle calls that end, fail, take too long, or lose their replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from penstock.errors import ModelCrashed, ModelTimeout, ModelUnavailable
from penstock.failures import error_of
from penstock.models.host.calls import LiveCall
from penstock.models.host.failures import failure_of
from penstock.models.host.fleet import Fleet
from penstock.models.host.logbook import Logbook
from penstock.models.host.metrics import ModelMetrics
from penstock.models.host.poison import Poison
from penstock.models.host.queue import CallQueue
from penstock.models.host.replica import Replica
from penstock.models.host.sessions import LiveSession
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Segment

_MAX_ATTEMPTS: Final = 2  # replicas that one call may bring down


class Outcomes:
    """Gives the calls of one deployment's replicas their results and errors; it is the ``Owner`` of these replicas.

    ``places_free`` sends other calls, because some have ended; ``fleet_changed`` does so after a replica has ended.
    """

    def __init__(
        self,
        model: Model,
        *,
        fleet: Fleet,
        queue: CallQueue,
        metrics: ModelMetrics,
        logbook: Logbook,
        poison: Poison,
        places_free: Callable[[], None],
        fleet_changed: Callable[[], None],
    ) -> None:
        self.places_free = places_free
        self.ended_at = 0.0  # perf_counter of the last end of a call that a replica had
        self.stopped = False  # no call runs again
        self._model = model
        self._fleet = fleet
        self._queue = queue
        self._metrics = metrics
        self._logbook = logbook
        self._poison = poison
        self._fleet_changed = fleet_changed

    def fail_sessions(self, reason: str) -> None:
        """Fail the running sessions. They end when their callers like, so it makes no sense to wait for that."""
        for call in [call for replica in self._fleet.replicas for call in replica.in_flight.running.values()]:
            if isinstance(call, LiveSession):
                call.fail(ModelUnavailable(reason))

    def completed(self, call: LiveCall, json: bytes, segments: Sequence[Segment], micros: int) -> None:
        """End a call with its result."""
        seconds = micros / 1e6
        self.ended_at = time.perf_counter()
        if not isinstance(call, LiveSession):
            self._queue.took(seconds)
            self._metrics.count_completed(seconds)
        if not json:
            json, segments = call.collected()
        call.succeed(json, segments, model_seconds=seconds, version=self._model.version)

    def failed(self, call: LiveCall, failure: frames.FailureHeader) -> None:
        """End a call that failed; its replica continues."""
        self.ended_at = time.perf_counter()
        self._metrics.count_failed(failure.category)
        call.fail(error_of(failure_of(failure, self._logbook.masked(failure.message)), f"model {self._model.name}"))

    def timed_out(self, call: LiveCall) -> None:
        """End a call that has exceeded its time limit."""
        self._metrics.count_failed("timeout")
        limit = f"{self._model.timeout.total_seconds():g} s"
        if isinstance(call, LiveSession):
            limit = f"{self._model.session_timeout.total_seconds():g} s"
            call.fail(ModelTimeout(f"the session with model {self._model.name} had no part and no chunk for {limit}"))
        else:
            call.fail(ModelTimeout(f"model {self._model.name} took longer than {limit}"))

    def ended(self, replica: Replica, started: Sequence[LiveCall], unstarted: Sequence[LiveCall]) -> None:
        """Requeue the calls of a replica that has ended, or fail them."""
        output = f"; its last output was: {replica.last_words}" if replica.last_words else ""
        reason = self._logbook.masked(f"{replica.end_reason or 'it ended'}{output}")
        again = [call for call in unstarted if not call.done.done()]
        for call in started:
            if call.done.done():
                continue
            if isinstance(call, LiveSession):
                self._metrics.count_failed("crashed")
                call.fail(ModelCrashed(f"the replica that ran this session ended: {reason}"))
                continue
            if not replica.overstayed:  # otherwise another call was the cause
                call.attempts += 1
                self._poison.blame(call, alone=len(started) == 1)
            if self._may_retry(call, replica):
                again.append(call)
            else:
                self._metrics.count_failed("crashed")
                call.fail(ModelCrashed(f"the replica that ran this call ended: {reason}"))
        for call in again:
            call.reset()
        self._queue.requeue(again)
        self._fleet.replace(replica)
        self._fleet_changed()

    def _may_retry(self, call: LiveCall, replica: Replica) -> bool:
        return (
            self._model.manifest.retry
            and not replica.over_limit  # the size limit would be exceeded again
            and not self.stopped
            and not call.visible
            and call.attempts < _MAX_ATTEMPTS
            and not self._poison.refuses(call)
        )
