"""One process that runs flow code: its socket, its output, its stacks and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from penstock.flows.kernel.records import FlowDescription, History, Turn
from penstock.flows.kernel.replay import Replayed
from penstock.flows.process.errors import HistoryTooLarge, NotResident, NoTurn, ProgramLost, UnknownFlow
from penstock.flows.process.output import Stacks, log_lines
from penstock.flows.process.watchdog import Watchdog
from penstock.flows.program import frames
from penstock.flows.program.folders import FlowFolders
from penstock.flows.program.unsent import Unsent, make_file
from penstock.models.host.guardian import Guardian
from penstock.processes import exits
from penstock.processes.binding import bound
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_OUTGOING: Final = 2**18  # bytes
_LAST_REPORTS: Final = 1.0  # seconds until all reports of a process that has ended are received
_REFUSALS: Final[dict[str, type[NoTurn]]] = {"unknown_flow": UnknownFlow, "not_resident": NotResident}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long flow code may run without waiting."""

    warn_after: timedelta = timedelta(seconds=1)  # then its stack is logged
    kill_after: timedelta = timedelta(seconds=20)  # then its process is killed
    start_within: timedelta = timedelta(seconds=60)  # until the first file is loaded
    load_within: timedelta = timedelta(seconds=20)  # a file


class Program:
    """A running process, and the requests that it executes."""

    def __init__(
        self,
        folders: FlowFolders,
        environment: Mapping[str, str],
        limits: Limits,
        guardian: Guardian,
        *,
        variables: Mapping[str, Mapping[str, str]],
    ) -> None:
        """``variables`` are defaults for the code of each app that ``environment`` lacks, by the name of its folder."""
        self.flows: list[FlowDescription] = []
        self.problems: dict[str, str] = {}  # by the paths of files
        self.loading: str | None = None  # the path of the file that it is loading
        self.ended = asyncio.Event()
        self.how_it_ended = ""
        self._folders = folders
        self._environment = environment
        self._variables = variables
        self._limits = limits
        self._guardian = guardian
        self._ready = asyncio.Event()  # set when it has loaded its files or has ended
        self._heard = asyncio.Event()  # set when it has sent a report or has ended
        self._number = 0
        self._requests: dict[int, asyncio.Future[Any]] = {}  # turns and checks
        self._runs: dict[int, UUID] = {}  # by request
        self._watchdog = Watchdog(limits.warn_after, limits.kill_after, ask=self._ask_stack, kill=self._kill_blocked)
        self._process: Process | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing = bytearray()  # frames that are written in this iteration of the event loop
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()  # all that it has sent was received
        self._unsent: Unsent | None = None
        self._stacks = Stacks(self._log_stack)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, skipped: Collection[str] = ()) -> None:
        """Start the process and wait until it has loaded the files, except the ``skipped`` ones.

        Raises ProgramLost, after which ``loading`` names the file that ended or stopped it.
        """
        try:
            await self._spawn(skipped)
        except OSError as error:
            raise ProgramLost(f"it cannot be started: {error.strerror}", on_cpu=False) from error
        while not self._ready.is_set():
            self._heard.clear()
            limit = self._limits.start_within if self.loading is None else self._limits.load_within
            if not await set_within(self._heard, limit.total_seconds()):
                stack = await self._stacks.requested(self._ask_stack)
                self.kill()
                await self.ended.wait()
                raise ProgramLost(f"it takes longer than {limit.total_seconds():g} s", on_cpu=False, stack=stack)
        if self.ended.is_set():
            raise ProgramLost(f"its process ended: {self.how_it_ended}", on_cpu=False)

    async def turn(self, run_id: UUID, make: Callable[[int], frames.Begin | frames.Deliver]) -> Turn:
        """Send the request that ``make`` creates for a number, and wait for its turn. Raises NoTurn."""
        turn: Turn = await self._request(run_id, make)
        return turn

    async def check(self, history: History, *, ended: bool) -> Replayed:
        """Replay a history. Raises NoTurn."""
        replayed: Replayed = await self._request(history.run_id, lambda number: frames.Check(number, history, ended))
        return replayed

    async def _request(self, run_id: UUID, make: Callable[[int], frames.Request]) -> Any:
        await self._writable.wait()
        if self._transport is None or self.ended.is_set():
            raise ProgramLost("the process of the flows has ended", on_cpu=False)
        self._number += 1
        number = self._number
        try:
            data = frames.encode(make(number))
        except frames.TooLarge as error:
            raise HistoryTooLarge(str(error)) from None
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        self._runs[number] = run_id
        self._watchdog.sent(number)
        self._write(data)
        try:
            return await future
        finally:
            self._requests.pop(number, None)
            self._runs.pop(number, None)

    def evict(self, run_id: UUID) -> None:
        """Send an eviction, if the process still runs."""
        if self._transport is not None and not self.ended.is_set():
            self._number += 1
            self._watchdog.sent(self._number)
            self._write(frames.encode(frames.Evict(self._number, run_id)))

    def _write(self, frame: bytes) -> None:
        """Write a frame, together with others of this iteration of the event loop: each write wakes the process."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += frame
        if len(self._outgoing) > _MAX_OUTGOING:
            self._flush()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._outgoing))
        self._outgoing.clear()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def kill(self) -> None:
        """Kill the process and what it has started."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Close the socket, so that the process ends; kill it if it does not end soon."""
        if self._transport is not None:
            self._transport.close()
        try:
            async with asyncio.timeout(1):
                await self.ended.wait()
        except TimeoutError:
            self.kill()
        if self._process is not None:
            await self.ended.wait()
        await asyncio.gather(*self._tasks)

    # The process

    async def _spawn(self, skipped: Collection[str]) -> None:
        ours, theirs = socket.socketpair()
        stack_read, stack_write = os.pipe()
        unsent = make_file()
        variables = make_file(msgspec.json.encode(self._variables))
        self._unsent = Unsent(os.dup(unsent))
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *bound(
                        [
                            sys.executable, "-P", "-m", "penstock.flows.program",
                            str(theirs.fileno()), str(stack_write), str(unsent), str(variables),
                            *self._folders.arguments(), *skipped,
                        ]
                    ),
                    stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=dict(self._environment),
                    cwd=next((root for root in self._folders.roots if root.is_dir()), "/"),
                    pass_fds=(theirs.fileno(), stack_write, unsent, variables), start_new_session=True,
                )  # fmt: skip
        except BaseException:
            ours.close()
            os.close(stack_read)
            raise
        finally:
            os.close(stack_write)
            os.close(unsent)
            os.close(variables)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        self._transport, _ = await loop.create_unix_connection(lambda: _Channel(self), sock=ours)
        self._tasks = [
            loop.create_task(log_lines(self._process.stdout, "info")),
            loop.create_task(log_lines(self._process.stderr, "warning")),
            loop.create_task(self._stacks.read(stack_read)),
            loop.create_task(self._watch(self._process)),
        ]
        await self._guardian.watch(self._process.pid)

    async def _watch(self, process: Process) -> None:
        status = await process.wait()
        with suppress(ProcessLookupError, PermissionError):  # its descendants must not outlive it
            os.killpg(process.pid, signal.SIGKILL)
        self._guardian.release(process.pid)
        await set_within(self._closed, _LAST_REPORTS)
        self.how_it_ended = exits.described(status)
        on_cpu = self._watchdog.on_cpu
        blocked = self._watchdog.killed
        self._watchdog.stop()
        self.ended.set()
        self._ready.set()
        self._heard.set()
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        self._receive_unsent()
        for number, future in self._requests.items():
            if future.done():
                continue
            if number == on_cpu and blocked:
                message = f"the flow blocked its process for {self._limits.kill_after.total_seconds():g} s"
            else:
                message = f"the process of the flows ended: {self.how_it_ended}"
            stack = self._stacks.last if number == on_cpu and blocked else ""
            future.set_exception(ProgramLost(message, on_cpu=number == on_cpu, stack=stack))

    def _receive_unsent(self) -> None:
        """Receive the turn that the process has made before its code has ended it."""
        report = b"" if self._unsent is None else self._unsent.get()
        if not report:
            return
        try:
            turned = msgspec.json.decode(report, type=frames.Turned)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        future = self._requests.get(turned.request)
        if future is not None and not future.done():
            _settle(future, turned)

    def _ask_stack(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)

    def _kill_blocked(self) -> None:
        log.error("flow_killed", pid=self.pid, run_id=self._run_on_cpu(), stack=self._stacks.last)
        self.kill()

    def _log_stack(self, stack: str) -> None:
        if self._watchdog.warned:
            log.warning("flow_blocks", pid=self.pid, run_id=self._run_on_cpu(), stack=stack)

    def _run_on_cpu(self) -> str:
        run_id = self._runs.get(self._watchdog.on_cpu or 0)
        return "" if run_id is None else str(run_id)

    # Its reports

    def received(self, report: frames.Report) -> None:
        """Handle a report of the process."""
        self._heard.set()
        match report:
            case frames.Loading():
                self.loading = report.file
            case frames.Ready():
                self.loading = None
                self.flows, self.problems = report.flows, report.problems
                self._ready.set()
            case frames.OffCpu() | frames.Evicted():
                self._watchdog.ended(report.request)
            case frames.Turned() | frames.Checked() | frames.Refused():
                self._watchdog.ended(report.request)
                future = self._requests.get(report.request)
                if future is not None and not future.done():
                    _settle(future, report)

    def broken(self, reason: str) -> None:
        """End a process that breaks the protocol."""
        log.error("flows_protocol_broken", pid=self.pid, reason=reason)
        self.kill()

    def closed(self) -> None:
        """Note that nothing more comes from the process."""
        self._closed.set()

    def set_writable(self, *, writable: bool) -> None:
        """Hold requests while the process does not read the earlier ones."""
        if writable:
            self._writable.set()
        elif not self.ended.is_set():
            self._writable.clear()


class _Channel(asyncio.Protocol):
    """The service's end of the socket. No exception leaves it, whatever the peer sends."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._failed = False
        self._decoder: frames.Decoder[frames.Report] = frames.Decoder(frames.Report)  # type: ignore[arg-type]  # a union

    def data_received(self, data: bytes) -> None:
        if self._failed:  # it is being killed; its reports no longer count
            return
        try:
            for report in self._decoder.feed(data):
                self._program.received(report)
        except (frames.TooLarge, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._failed = True
            self._program.broken(str(error))

    def connection_lost(self, _error: Exception | None) -> None:
        self._program.closed()

    def pause_writing(self) -> None:
        self._program.set_writable(writable=False)

    def resume_writing(self) -> None:
        self._program.set_writable(writable=True)


def _settle(future: asyncio.Future[Any], report: frames.Turned | frames.Checked | frames.Refused) -> None:
    match report:
        case frames.Turned():
            future.set_result(report.turn)
        case frames.Checked():
            future.set_result(report.replayed)
        case frames.Refused():
            future.set_exception(_REFUSALS.get(report.code, NoTurn)(report.message))
