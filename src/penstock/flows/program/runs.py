"""The resident runs of the program, and the execution of requests for them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from penstock.flows.kernel.ahead import Overtaken
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import Recorded
from penstock.flows.kernel.replay import replay
from penstock.flows.kernel.resident import Run
from penstock.flows.program.effects_thread import EffectsThread
from penstock.flows.program.frames import (
    Begin,
    Check,
    Checked,
    Deliver,
    Evict,
    Evicted,
    OffCpu,
    Refused,
    Report,
    Request,
    Turned,
)
from penstock.models.replica.errors import described, traceback_of

_COLLECTED: Final = 2000  # number of runs after which reference cycles are collected


class Runs:
    """Executes requests one after another; ``send`` is called with what to report.

    ``keep`` is called with a report before flow code runs that may end the process. It returns the frame, or nothing if
    it cannot keep that until it is sent.
    """

    def __init__(
        self,
        flows: Mapping[tuple[str, str], Flow[..., Any]],
        effects: EffectsThread,
        send: Callable[[Report | bytes], None],
        keep: Callable[[Report], bytes],
    ) -> None:
        self._flows = flows
        self._effects = effects
        self.send = send
        self._keep = keep
        self._ahead_of_us = 0.0  # the clock of the database minus the monotonic one
        self._resident: dict[UUID, Run] = {}
        self._forgotten = 0  # runs that have been resident
        self._waiting: dict[int, Run] = {}  # runs whose turn waits for effects, by request

    def execute(self, request: Request) -> None:
        """Execute a request. No error leaves this method."""
        match request:
            case Evict():
                self._evict(request.run_id)
                self.send(Evicted(request.request))
            case Begin():
                self._guarded(request.request, request.history.run_id, lambda: self._begin(request))
            case Deliver():
                self._guarded(request.request, request.run_id, lambda: self._deliver(request))
            case Check():
                self._guarded(request.request, request.history.run_id, lambda: self._check(request))

    def finish(self, request: int, outcomes: list[Recorded]) -> None:
        """End a turn whose effects have ended."""
        run = self._waiting.pop(request, None)
        if run is None:
            return  # it has been evicted in the meantime
        for outcome in outcomes:
            run.recorded(outcome)
        self._guarded(request, run.id, lambda: self._end_turn(request, run))

    def _guarded(self, request: int, run_id: UUID, execute: Callable[[], None]) -> None:
        try:
            execute()
        except Exception as error:  # noqa: BLE001  (a mistake of ours concerns this run only)
            print(*traceback_of(error), sep="\n")  # noqa: T201  (the host logs the lines)
            self._evict(run_id)
            self.send(Refused(request, "internal", described(error)))

    def _begin(self, request: Begin) -> None:
        history = request.history
        flow = self._flow_of(request)
        if flow is None:
            return
        self._set_clock(request.now)
        self._evict(history.run_id)
        run = self._resident[history.run_id] = Run(flow, history)
        run.begin(request.mail)
        self._after(request.request, run)

    def _check(self, request: Check) -> None:
        flow = self._flow_of(request)
        if flow is not None:
            self.send(Checked(request.request, replay(flow, request.history, ended=request.ended)))

    def _flow_of(self, request: Begin | Check) -> Flow[..., Any] | None:
        """Return the flow of a history; refuse the request if there is none."""
        name, version = request.history.flow, request.history.version
        flow = self._flows.get((name, version))
        if flow is None:
            self.send(Refused(request.request, "unknown_flow", f"no file has flow {name} version {version}"))
        return flow

    def _deliver(self, request: Deliver) -> None:
        run = self._resident.get(request.run_id)
        if run is None:
            self.send(Refused(request.request, "not_resident", f"run {request.run_id} is not resident"))
            return
        self._set_clock(request.now)
        try:
            run.deliver(request.mail)
        except Overtaken:
            self._evict(request.run_id)
            self.send(Refused(request.request, "not_resident", f"run {request.run_id} must be begun again"))
        else:
            self._after(request.request, run)

    def _set_clock(self, now: float) -> None:
        self._ahead_of_us = now - time.monotonic()

    def _after(self, request: int, run: Run) -> None:
        if run.effects and not run.ended:
            self._waiting[request] = run
            self.send(OffCpu(request))
            self._effects.execute(request, run.effects)
        else:
            self._end_turn(request, run)

    def _end_turn(self, request: int, run: Run) -> None:
        turn = run.turn(self._ahead_of_us + time.monotonic())
        frame = self._keep(Turned(request, turn)) if turn.recorded and not run.ended else b""
        further = run.go_ahead(turn) if frame else turn
        if run.ended and run.ahead is None:
            self._evict(run.id)
        self.send(frame if frame and further is turn else Turned(request, further))

    def _evict(self, run_id: UUID) -> None:
        run = self._resident.pop(run_id, None)
        if run is None:
            return
        for request in [number for number, waiting in self._waiting.items() if waiting is run]:
            del self._waiting[request]
            self._effects.cancel(request)
        run.unwind()
        self._forgotten += 1
        if self._forgotten % _COLLECTED == 0:
            gc.collect()  # tasks and exceptions form cycles; left to itself, the collector lets memory grow
