"""One child process, started again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence

from penstock.processes import exits
from penstock.processes.backoff import Backoff
from penstock.processes.binding import SUPERVISOR_PID
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)


class Child:
    """A process that should run until ``stop``; ``run`` starts it again, with growing delays, when it ends.

    A started process imports its modules and then waits until it is released, which happens once ``needs`` is set.
    ``before_release`` is awaited before each release, when no earlier process of this name is alive.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        needs: asyncio.Event | None = None,
        before_release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self._command = tuple(command)
        self._variables = dict(variables)  # on top of our own environment
        self._needs = needs
        self._before_release = before_release
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the process running; return after ``stop``, when it has ended."""
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        self._stopped.clear()
        try:
            while not self._stopping.is_set():
                began = clock()
                process = self._process = await self._start()
                status = await self._until_end(process)
                if self._stopping.is_set():
                    log.info("child_stopped", child=self.name, status=exits.described(status))
                    break
                delay = backoff.after_run_of(clock() - began)
                log.error(
                    "child_died",
                    child=self.name,
                    pid=process.pid,
                    status=exits.described(status),
                    restart_seconds=delay,
                )
                await set_within(self._stopping, delay)
        finally:
            self._stopped.set()

    async def stop(self, *, grace_seconds: float) -> None:
        """Send SIGTERM, kill the process after ``grace_seconds``, and wait until it has ended."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if not await set_within(self._stopped, grace_seconds):
            log.warning("child_killed", child=self.name, grace_seconds=grace_seconds)
            self.kill()
            await self._stopped.wait()

    def kill(self) -> None:
        """End the process at once; safe at any time."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _start(self) -> Process:
        # A session of its own: Ctrl-C on the terminal is for the supervisor, which stops its parts in order.
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, **self._variables, SUPERVISOR_PID: str(os.getpid())},
            stdin=PIPE,
            start_new_session=True,
        )
        log.debug("child_started", child=self.name, pid=process.pid)
        if self._stopping.is_set():  # `stop` came while the process was being started
            process.terminate()
        return process

    async def _until_end(self, process: Process) -> int:
        """Release the process when its needs are met, and return its exit status when it has ended."""
        releasing = asyncio.create_task(self._release(process))
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([releasing, ending], return_when=asyncio.FIRST_COMPLETED)
            if releasing.done():
                releasing.result()  # a failure is a bug in Penstock and must be raised
            return await ending
        finally:
            for task in (releasing, ending):
                task.cancel()

    async def _release(self, process: Process) -> None:
        if self._needs is not None:
            await self._needs.wait()
        if self._before_release is not None:
            await self._before_release()
        if process.stdin is not None:
            process.stdin.close()
