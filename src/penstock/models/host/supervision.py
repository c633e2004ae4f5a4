"""Check the replicas of a host at intervals: their responses to pings, memory, files, stuck calls and idle time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Final

import psutil

from penstock.models.host.deployment import Deployment
from penstock.models.host.replica import Replica
from penstock.telemetry import logs

log = logs.get(__name__)

_TICK: Final = 0.25  # seconds between checks
_FILES_TICK: Final = 1.0  # of the files that calls write
_IDLE_TICK: Final = 1.0  # the same without a model


class Supervision:
    """Checks all deployments of a host until it is cancelled. ``unload`` is called for those that were idle for long.

    See ``ModelHost`` for the limits.
    """

    def __init__(
        self,
        deployments: Callable[[], Sequence[Deployment]],
        unload: Callable[[Deployment], None],
        *,
        ping_interval: float,
        ping_timeout: float,
        cancel_grace: timedelta,
        max_file_bytes: int,
    ) -> None:
        """The files of all replicas may have ``max_file_bytes`` together."""
        self._deployments = deployments
        self._unload = unload
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._cancel_grace = cancel_grace
        self._max_file_bytes = max_file_bytes
        self._files_at = 0.0  # monotonic time at which the files are checked next

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_TICK if self._deployments() else _IDLE_TICK)
            try:
                now = time.monotonic()
                for deployment in self._deployments():
                    self._check(deployment, now)
                await self._check_memory()
                await self._check_files(now)
            except Exception:  # the loop outlives unforeseen errors
                log.exception("watching_replicas_failed")

    def _check(self, deployment: Deployment, now: float) -> None:
        deployment.metrics.set_load(
            waiting=deployment.waiting,
            in_flight=deployment.in_flight,
            sessions=deployment.sessions,
            replicas=len(deployment.replicas),
        )
        self._unload_if_idle(deployment)
        grace = deployment.model.cancel_grace or self._cancel_grace
        for replica in deployment.replicas:
            self._check_life(replica, now)
            if deployment.waiting or replica.in_flight.waiting:
                replica.free_if_stuck(grace.total_seconds())

    def _unload_if_idle(self, deployment: Deployment) -> None:
        after = deployment.model.unload_after
        if after is None or not deployment.ready or deployment.held or deployment.waiting or deployment.in_flight:
            return
        if time.perf_counter() - deployment.last_used_at >= after.total_seconds():
            log.info("model_unloaded", model=deployment.model.name, idle_seconds=after.total_seconds())
            self._unload(deployment)

    def _check_life(self, replica: Replica, now: float) -> None:
        if replica.state != "ready" or replica.load:
            return  # a call that hangs is ended by its timeout
        if now - replica.ponged_at > self._ping_timeout and replica.pinged_at > replica.ponged_at:
            replica.kill(f"did not respond for {self._ping_timeout:g} s")
        elif now - replica.pinged_at > self._ping_interval:
            replica.ping()
            replica.trim()

    async def _check_memory(self) -> None:
        limited = [
            (replica, deployment.model.memory_limit_bytes or 0)
            for deployment in self._deployments()
            for replica in deployment.replicas
            if deployment.model.memory_limit_bytes is not None and replica.pid is not None
        ]
        if not limited:
            return
        used = await asyncio.to_thread(lambda: [_memory(replica.pid) for replica, _ in limited])
        for (replica, limit), size in zip(limited, used, strict=True):
            if size > limit:
                replica.over_limit = True
                replica.kill(f"used {size >> 20} MiB of memory; its limit is {limit >> 20} MiB")

    async def _check_files(self, now: float) -> None:
        """Kill the replica whose files take most, if those of all replicas take too much: only calls that run write."""
        if now < self._files_at:
            return
        self._files_at = now + _FILES_TICK
        replicas = [replica for deployment in self._deployments() for replica in deployment.replicas]
        if not any(replica.load for replica in replicas):
            return
        sizes = await asyncio.to_thread(lambda: [_disk_bytes(replica.files) for replica in replicas])
        if sum(sizes) <= self._max_file_bytes:
            return
        size, replica = max(zip(sizes, replicas, strict=True), key=itemgetter(0))
        replica.over_limit = True
        replica.kill(
            f"wrote {size >> 20} MiB of files; those of all models may have {self._max_file_bytes >> 20} MiB together"
        )


def _disk_bytes(folder: Path | None) -> int:
    """Return the bytes that the files in a folder take on the disk. Files that go meanwhile are left out."""
    total = 0
    for path, _, names in () if folder is None else os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(path, name).lstat().st_blocks * 512
    return total


def _memory(pid: int | None) -> int:
    """Return the bytes of resident memory of a process and its descendants."""
    if pid is None:
        return 0
    total = 0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.Error:
        pass  # it has ended
    return total
