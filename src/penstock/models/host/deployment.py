"""One deployed version of a model: its calls, its replicas, and its lifecycle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from penstock.errors import InvalidInput, ModelUnavailable, Overloaded, PoisonInput
from penstock.failures import CallFailed, Category
from penstock.models.checking import Checker
from penstock.models.host.call_folders import CallFolders
from penstock.models.host.calls import LiveCall
from penstock.models.host.fleet import Fleet
from penstock.models.host.guardian import Guardian
from penstock.models.host.logbook import Logbook
from penstock.models.host.metrics import ModelMetrics
from penstock.models.host.outcomes import Outcomes
from penstock.models.host.poison import Poison
from penstock.models.host.queue import CallQueue
from penstock.models.host.replica import Owner, Replica
from penstock.models.host.sessions import LiveSession
from penstock.models.host.turn import Turn
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Schema, Segment
from penstock.models.uploads import MediaPlaces
from penstock.telemetry import logs

log = logs.get(__name__)

_STOP_GRACE: Final = 10.0  # seconds for a replica to unload


class Deployment:
    """One deployed version of a model. ``call`` is synchronous: when it returns, the call is sent or queued.

    Replicas are started by the first call, or by ``load``. A deployment that is retired takes no new calls, finishes
    its present ones, and ends.
    """

    def __init__(
        self,
        model: Model,
        *,
        guardian: Guardian,
        logbook: Logbook,
        private: frozenset[str],
        folders: CallFolders,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.folders = folders  # for the files of its calls
        self.schema: Schema | None = None  # None: not yet known
        self.checker = Checker({})
        self.media = MediaPlaces({})
        self.session_checker = Checker({})  # of first inputs of sessions
        self.part_checker = Checker({})
        self.checker_of_jobs = Checker({})  # calls whose inputs may name uploads, which are read when the calls run
        self.logbook = logbook
        self.metrics = ModelMetrics(model.owner, model.name, model.version)
        self.fleet = Fleet(
            model,
            logbook,
            lambda: self._new_replica(self._outcomes),
            on_load=self._set_schema,
            on_failure=self._start_failed,
            on_change=self._fleet_changed,
        )
        self.turn: Turn | None = None  # set by the group of models to which it belongs
        self.newer_problem: str | None = None  # why a newer form of this version is not used in its place
        self.retired = False
        self.held = False  # no new calls are sent: another model's turn is next
        self._called_at = time.perf_counter()
        self._guardian = guardian
        self._private = private
        self._on_change = on_change
        self._queue = CallQueue(model, self.fleet, self.metrics, self._pump)
        self._poison = Poison()
        self._outcomes = Outcomes(
            model,
            fleet=self.fleet,
            queue=self._queue,
            metrics=self.metrics,
            logbook=logbook,
            poison=self._poison,
            places_free=self._places_free,
            fleet_changed=self._fleet_changed,
        )
        self._describing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._change = asyncio.Event()  # a call has ended
        self._waiters = 0  # coroutines that wait for that

    # Calls

    def call(self, call: LiveCall) -> None:
        """Send or queue a call. Raises Overloaded (full queue), PoisonInput, ModelUnavailable (it was retired)."""
        if self._poison and self._poison.refuses(call):
            raise PoisonInput
        if self.retired:
            raise ModelUnavailable(f"model {self.model.name} is being removed")
        queue = self._queue
        if not queue and not self.held and queue.send_now(call):
            self._called_at = call.accepted_at
            return
        if not queue.has_space(call):
            self.metrics.count_failed("overloaded")
            raise Overloaded(
                f"{len(queue)} calls wait for model {self.model.name} already", retry_after=queue.wait_estimate()
            )
        self._called_at = call.accepted_at
        waited_before = len(queue) > 0
        queue.add(call)
        if not waited_before or queue.together > 1 or self.fleet.absent:
            self.pump()  # otherwise there is no place for earlier calls either

    @property
    def last_used_at(self) -> float:
        """The perf_counter of when the last call was accepted, or a call in a replica ended."""
        return max(self._called_at, self._outcomes.ended_at)

    def begin(self, session: LiveSession) -> None:
        """Send or queue a session. Raises as ``call`` does."""
        self.call(session)
        session.done.add_done_callback(lambda _: self._count(session))

    def _count(self, session: LiveSession) -> None:
        done = session.done
        self.metrics.count_session(
            seconds=time.perf_counter() - session.started_at if session.started_at else 0.0,
            parts=session.part_count,
            part_bytes=session.part_bytes,
            completed=not done.cancelled() and done.exception() is None,
        )

    @property
    def places(self) -> int:
        """Calls that all replicas together can work on at a time."""
        stated = self.model.manifest
        together = stated.batching.max_size if stated.batching is not None else 1
        return stated.replicas * self.model.concurrency * together

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Calls in replicas."""
        return self.fleet.in_flight

    @property
    def sessions(self) -> int:
        """Sessions in replicas."""
        return sum(replica.in_flight.sessions for replica in self.replicas)

    @property
    def replicas(self) -> list[Replica]:
        """The replicas that are alive."""
        return self.fleet.replicas

    @property
    def problem(self) -> str | None:
        """Why the last start failed; None if it succeeded."""
        return self.fleet.problem

    @property
    def restarts(self) -> int:
        """Replicas that were replaced because they died."""
        return self.fleet.restarts

    @property
    def settled(self) -> bool:
        """Whether no replica is starting."""
        return self.fleet.settled

    @property
    def ready(self) -> bool:
        """Whether some replica takes calls."""
        return self.fleet.ready

    # Life

    async def describe(self) -> Schema:
        """Return the model's schema; start a process to read it if only the code states it. Raises ModelUnavailable."""
        async with self._describing:
            if self.schema is not None:
                return self.schema
            if self.fleet.resting:  # calls for a broken model must not make the machine import it again and again
                raise ModelUnavailable(f"model {self.model.name} cannot be loaded: {self.problem}; tried again soon")
            began = time.monotonic()
            try:
                if self.model.runtime.describes_itself or self.model.manifest.schema is None:
                    schema = await self._new_replica(_NoCalls()).describe()
                else:
                    schema = self.model.schema
                self._set_schema(schema)
            except CallFailed as error:
                self.fleet.note_failure(error, time.monotonic() - began)
                raise ModelUnavailable(f"model {self.model.name} cannot be loaded: {self.problem}") from None
            self.fleet.problem = None
            return schema

    async def load(self) -> None:
        """Start all replicas and wait until one is ready. Raises ModelUnavailable."""
        if self.turn is not None and not self.turn.granted:
            self.turn.request()
            return  # it is loaded when its turn comes
        starts = self.fleet.bring_up()
        if starts and not self.ready:
            await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
            self._check_up()

    async def unload(self) -> None:
        """Let running calls finish, then end all replicas; queued calls stay."""
        self.held = True
        try:
            while self.in_flight and not self._ended.is_set():
                await self._settled()
            await self.fleet.take_down(grace=_STOP_GRACE)
        finally:
            self.held = False

    async def retire(self) -> None:
        """Take no new calls, finish the present ones, and end."""
        self.retired = True
        while (self._queue or self.in_flight) and not self._ended.is_set():
            await self._settled()
        await self.stop(grace=_STOP_GRACE)

    async def stop(self, *, grace: float = 0.0) -> None:
        """End at once; running and waiting calls fail."""
        self.retired = self._outcomes.stopped = True
        self._ended.set()
        reason = f"model {self.model.name} is being stopped"
        self._queue.fail(reason)
        self._outcomes.fail_sessions(reason)
        await self.fleet.stop(grace=grace)

    def pump(self) -> None:
        """Send and start what is possible now, after a change elsewhere."""
        if self._queue and self.fleet.absent:
            self._request_load()
        else:
            self._pump()

    async def _settled(self) -> None:
        """Wait until a call has ended."""
        self._change.clear()
        self._waiters += 1
        try:
            await self._change.wait()
        finally:
            self._waiters -= 1

    def _check_up(self) -> None:
        if self.problem is not None and not self.ready:
            raise ModelUnavailable(f"model {self.model.name} cannot be loaded: {self.problem}")

    def _request_load(self) -> None:
        if self.turn is not None and not self.turn.granted:
            self.turn.request()
            return
        if self.fleet.resting:
            self._queue.fail(f"model {self.model.name} could not be loaded: {self.problem}; tried again soon")
        else:
            self.fleet.bring_up()

    # What happens to the fleet

    def _start_failed(self) -> None:
        """Fail the waiting calls, unless other replicas are ready or starting."""
        if not self.ready and self.settled:
            self._queue.fail(f"model {self.model.name} cannot be loaded: {self.problem}")
        self._idle_check()

    def _fleet_changed(self) -> None:
        """Send what can be sent now."""
        self._on_change()
        self._pump()

    def _new_replica(self, owner: Owner) -> Replica:
        return Replica(self.model, owner, self._guardian, self.logbook, self._private, self.folders)

    def _set_schema(self, schema: Schema) -> None:
        if self.schema is None:
            try:
                Checker.check_schema(schema.input, "input")
                if schema.session is not None:
                    Checker.check_schema(schema.session.input, "session.input")
                    Checker.check_schema(schema.session.part, "session.part")
            except InvalidInput as error:
                raise CallFailed(Category.UNAVAILABLE, f"its schema is wrong: {error.message}") from None
            self.schema = schema
            self.checker = Checker(schema.input)
            self.checker_of_jobs = Checker(schema.input, uploads=True)
            self.media = MediaPlaces(schema.input)
            if schema.session is not None:
                self.session_checker = Checker(schema.session.input)
                self.part_checker = Checker(schema.session.part)
            batching = self.model.manifest.batching
            if batching is not None and schema.batches:
                self._queue.together = batching.max_size
            self._on_change()

    def _pump(self) -> None:
        if self._waiters:
            self._change.set()
        if self.held:
            return
        self._queue.send()
        if not self._queue:
            self._idle_check()

    def _places_free(self) -> None:
        """Send the next calls, before the results of those that ended reach their callers."""
        if self._queue or self._waiters or self.turn is not None:
            self._pump()

    def _idle_check(self) -> None:
        if self.turn is not None and not self._queue and not self.in_flight:
            self.turn.idle()


class _NoCalls:
    """The owner of a replica that only reports its schema, and so has no calls."""

    def completed(self, call: LiveCall, json: bytes, segments: Sequence[Segment], micros: int) -> None: ...
    def failed(self, call: LiveCall, failure: frames.FailureHeader) -> None: ...
    def timed_out(self, call: LiveCall) -> None: ...
    def places_free(self) -> None: ...
    def ended(self, replica: Replica, started: Sequence[LiveCall], unstarted: Sequence[LiveCall]) -> None: ...
