"""The replicas of one deployment: started, kept at their number, replaced when they die, ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from penstock.models.host.logbook import Logbook
from penstock.models.host.replica import Replica
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Schema
from penstock.outbound.failure import CallFailed
from penstock.processes.backoff import Backoff
from penstock.telemetry import logs

log = logs.get(__name__)

_LONGEST_RESTART: Final = 1.0  # seconds before a replica is replaced that had loaded


class Commander(Protocol):
    """Whose replicas they are. Called on the event loop."""

    def replica_loaded(self, schema: Schema) -> None:
        """One more is ready. May raise CallFailed: then it is of no use."""

    def replica_failed(self) -> None:
        """One could not be started; ``Fleet.problem`` says why."""

    def fleet_changed(self) -> None:
        """Something about the replicas is different."""


class Fleet:
    """``replicas`` holds those that live; ``problem`` says why the last start failed, None after one that did not."""

    def __init__(self, model: Model, commander: Commander, logbook: Logbook, make: Callable[[], Replica]) -> None:
        self.replicas: list[Replica] = []
        self.problem: str | None = None
        self.restarts = 0
        self._model = model
        self._commander = commander
        self._logbook = logbook
        self._make = make
        self._wanted = False  # they are to be kept at their number
        self._starting = 0
        self._backoff = Backoff()
        self._not_before = 0.0  # monotonic time of the next start, after one that failed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether some replica takes calls."""
        return any(replica.state == "ready" for replica in self.replicas)

    @property
    def settled(self) -> bool:
        """Whether no replica is on its way up."""
        return not self._starting

    @property
    def absent(self) -> bool:
        """Whether there is none, and none on its way."""
        return not self.replicas and not self._starting

    @property
    def resting(self) -> bool:
        """Whether a start failed a moment ago, so that the next one has to wait."""
        return time.monotonic() < self._not_before

    @property
    def in_flight(self) -> int:
        """Calls in all replicas."""
        return sum(replica.load for replica in self.replicas)

    def least_loaded(self) -> Replica | None:
        """The ready replica with the fewest calls in flight."""
        best: Replica | None = None
        for replica in self.replicas:
            if replica.state == "ready" and (best is None or replica.load < best.load):
                best = replica
        return best

    def bring_up(self) -> list[asyncio.Task[None]]:
        """Start what is missing to the number, and keep it there from now on."""
        self._wanted = True
        missing = self._model.manifest.replicas - len(self.replicas) - self._starting
        return [self._start_soon() for _ in range(missing)]

    def replace(self, dead: Replica) -> None:
        """A replica has died: start another one, if they are to be kept."""
        if dead in self.replicas:
            self.replicas.remove(dead)
        if dead.load_seconds is None or not self._wanted:
            return  # one that never loaded is its start's business
        self.restarts += 1
        pause = self._pause_after(dead)
        log.warning(
            "replica_died", model=self._model.name, replica=dead.name, reason=dead.end_reason, restart_seconds=pause
        )
        self._start_soon(pause)

    async def take_down(self, *, grace: float) -> None:
        """End all replicas in order, and start none."""
        self._wanted = False
        await asyncio.gather(*(replica.stop(grace=grace) for replica in list(self.replicas)))

    async def stop(self, *, grace: float) -> None:
        """End everything, starts included."""
        self._wanted = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.take_down(grace=grace)

    def note_failure(self, error: CallFailed, seconds: float) -> float:
        """Remember why a start failed, after so long, and when to try again at the earliest; answers the pause."""
        self.problem = self._logbook.masked(error.message)
        pause = self._backoff.after_run_of(seconds)
        self._not_before = time.monotonic() + pause
        return pause

    def _start_soon(self, pause: float = 0.0) -> asyncio.Task[None]:
        self._starting += 1
        task = asyncio.get_running_loop().create_task(self._start_one(pause))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start_one(self, pause: float) -> None:
        replica: Replica | None = None
        began = time.monotonic()
        failure: CallFailed | None = None
        try:
            if pause:
                await asyncio.sleep(pause)
            if not self._wanted:
                return
            began = time.monotonic()
            replica = self._make()
            self.replicas.append(replica)
            self._commander.replica_loaded(await replica.start())
            self.problem = None
            log.info("replica_ready", model=self._model.name, replica=replica.name, seconds=replica.load_seconds)
        except CallFailed as error:
            failure = error
            if replica is not None:
                replica.kill("cannot be used")  # it may have loaded, with a schema that cannot
        except Exception:  # callers wait for this start, whatever becomes of it
            log.exception("replica_start_failed", model=self._model.name)
            failure = CallFailed("unavailable", "it could not be started, for a reason that stands in the log")
            if replica is not None:
                replica.kill("cannot be used")
        finally:
            self._starting -= 1
            if replica is not None and replica.state == "dead" and replica in self.replicas:
                self.replicas.remove(replica)
        if failure is not None:
            self._failed(failure, time.monotonic() - began)
        self._commander.fleet_changed()

    def _failed(self, error: CallFailed, seconds: float) -> None:
        pause = self.note_failure(error, seconds)
        log.warning("replica_failed_to_start", model=self._model.name, reason=self.problem, again_seconds=pause)
        self._commander.replica_failed()
        if self._wanted and (self._model.manifest.eager or self.ready):
            self._start_soon(pause)

    def _pause_after(self, dead: Replica) -> float:
        """Before a replica is replaced that had loaded: none if it did some good, so that one bad input disturbs nobody
        else; a short one if it died at its first call."""
        if dead.answers:
            return 0.0
        return min(self._backoff.after_run_of(time.monotonic() - dead.started_at), _LONGEST_RESTART)
