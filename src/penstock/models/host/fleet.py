"""The replicas of one deployment: start them, keep their number, replace those that die, and end them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.host.logbook import Logbook
from penstock.models.host.replica import Replica
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Schema
from penstock.processes.backoff import Backoff
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_RESTART_SECONDS: Final = 1.0  # before a replica that had loaded is replaced


class Fleet:
    """Keeps the replicas of a deployment running. ``replicas`` holds those that are alive; ``problem`` is why the last
    start failed, or None if it succeeded.

    ``on_load`` is called with the schema of each replica that is ready; if it raises CallFailed, the start has failed.
    ``on_failure`` is called after a failed start, ``on_change`` after every change.
    """

    def __init__(
        self,
        model: Model,
        logbook: Logbook,
        make: Callable[[], Replica],
        *,
        on_load: Callable[[Schema], None],
        on_failure: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self.replicas: list[Replica] = []
        self.problem: str | None = None
        self.restarts = 0
        self._model = model
        self._logbook = logbook
        self._make = make
        self._on_load = on_load
        self._on_failure = on_failure
        self._on_change = on_change
        self._wanted = False  # whether to keep as many as the manifest states
        self._starting = 0
        self._backoff = Backoff()
        self._not_before = 0.0  # monotonic time of the next start, after one that failed
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether some replica takes calls."""
        return any(replica.state == "ready" for replica in self.replicas)

    @property
    def ready_count(self) -> int:
        """Replicas that take calls."""
        return sum(replica.state == "ready" for replica in self.replicas)

    @property
    def settled(self) -> bool:
        """Whether no replica is being started."""
        return not self._starting

    @property
    def absent(self) -> bool:
        """Whether there is no replica, and none is being started."""
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
        """Return the ready replica with the fewest calls in flight."""
        best: Replica | None = None
        for replica in self.replicas:
            if replica.state == "ready" and (best is None or replica.load < best.load):
                best = replica
        return best

    def bring_up(self) -> list[asyncio.Task[None]]:
        """Start the replicas that are missing, and keep their number from now on."""
        self._wanted = True
        missing = self._model.manifest.replicas - len(self.replicas) - self._starting
        return [self._start_soon() for _ in range(missing)]

    def replace(self, dead: Replica) -> None:
        """Start another replica for one that has died, if the number is kept."""
        if dead in self.replicas:
            self.replicas.remove(dead)
        if dead.load_seconds is None or not self._wanted:
            return  # ``_start_one`` handles one that never loaded
        self.restarts += 1
        delay = self._restart_delay(dead)
        log.warning(
            "replica_died", model=self._model.name, replica=dead.name, reason=dead.end_reason, restart_seconds=delay
        )
        self._start_soon(delay)

    async def take_down(self, *, grace: float) -> None:
        """End all replicas in order, and start none."""
        self._wanted = False
        await asyncio.gather(*(replica.stop(grace=grace) for replica in list(self.replicas)))

    async def stop(self, *, grace: float) -> None:
        """End everything, including starts."""
        self._wanted = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.take_down(grace=grace)

    def note_failure(self, error: CallFailed, seconds: float) -> float:
        """Record why a start failed after ``seconds``. Returns the delay before the next one, in seconds."""
        self.problem = self._logbook.masked(error.message)
        delay = self._backoff.after_run_of(seconds)
        self._not_before = time.monotonic() + delay
        return delay

    def _start_soon(self, delay: float = 0.0) -> asyncio.Task[None]:
        self._starting += 1
        task = asyncio.get_running_loop().create_task(self._start_one(delay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start_one(self, delay: float) -> None:
        replica: Replica | None = None
        began = time.monotonic()
        failure: CallFailed | None = None
        try:
            if delay:
                await asyncio.sleep(delay)
            if not self._wanted:
                return
            began = time.monotonic()
            replica = self._make()
            self.replicas.append(replica)
            self._on_load(await replica.start())
            self.problem = None
            log.info("replica_ready", model=self._model.name, replica=replica.name, seconds=replica.load_seconds)
        except CallFailed as error:
            failure = error
            if replica is not None:
                replica.kill("cannot be used")  # it may have loaded, with a schema that cannot
        except Exception:  # callers wait for this start, however it ends
            log.exception("replica_start_failed", model=self._model.name)
            failure = CallFailed(Category.UNAVAILABLE, "it could not be started; the reason is in the gateway's log")
            if replica is not None:
                replica.kill("cannot be used")
        finally:
            self._starting -= 1
            if replica is not None and replica.state == "dead" and replica in self.replicas:
                self.replicas.remove(replica)
        if failure is not None:
            self._failed(failure, time.monotonic() - began)
        self._on_change()

    def _failed(self, error: CallFailed, seconds: float) -> None:
        delay = self.note_failure(error, seconds)
        log.warning("replica_failed_to_start", model=self._model.name, reason=self.problem, again_seconds=delay)
        self._on_failure()
        if self._wanted and (self._model.manifest.eager or self.ready):
            self._start_soon(delay)

    def _restart_delay(self, dead: Replica) -> float:
        """Return the delay before the next start.

        There is none after a replica that had returned results, so that one bad input holds up no other calls, and a
        short one after a replica that died at its first call.
        """
        if dead.returned:
            return 0.0
        return min(self._backoff.after_run_of(time.monotonic() - dead.started_at), _MAX_RESTART_SECONDS)
