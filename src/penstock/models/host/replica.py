"""One replica as its host sees it: its lifecycle, and the calls sent to it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from penstock.errors import ModelUnavailable
from penstock.failures import CallFailed, Category
from penstock.models.host import devices, environment, sent
from penstock.models.host.arena import Arena, arena
from penstock.models.host.call_folders import CallFolders
from penstock.models.host.calls import LiveCall
from penstock.models.host.deadlines import Deadlines
from penstock.models.host.guardian import Guardian
from penstock.models.host.in_flight import InFlight
from penstock.models.host.logbook import Logbook
from penstock.models.host.process import Handlers, ReplicaProcess
from penstock.models.host.reports import CallOwner, Reports
from penstock.models.host.sessions import LiveSession, Pieces
from penstock.models.host.startup import Startup
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Schema
from penstock.processes import exits
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_numbers = itertools.count(1)
_call_ids = itertools.count(1)


class Owner(CallOwner, Protocol):
    """The owner of a replica, which decides what happens to its calls. Called on the event loop."""

    def timed_out(self, call: LiveCall) -> None: ...
    def ended(self, replica: Replica, started: Sequence[LiveCall], unstarted: Sequence[LiveCall]) -> None: ...


class Replica:
    """A process that runs one model, and the calls that it has."""

    def __init__(
        self,
        model: Model,
        owner: Owner,
        guardian: Guardian,
        logbook: Logbook,
        private: frozenset[str],
        folders: CallFolders,
    ) -> None:
        self.name = f"r{next(_numbers)}"
        self.model = model
        self.state = "starting"  # "ready", "stopping", "dead"
        self.schema: Schema | None = None
        self.started_at = time.monotonic()
        self.load_seconds: float | None = None
        self.in_flight = InFlight(model.concurrency)
        self.end_reason: str | None = None  # why we killed it
        self.over_limit = False  # it was killed because it used too much memory or disk
        self.overstayed = False  # it was killed because a call did not stop: no fault of the others
        self.exited = asyncio.Event()
        self.pinged_at = 0.0  # monotonic
        self._owner = owner
        self._logbook = logbook
        self._startup = Startup(self.name, model, logbook)
        self._reports = Reports(self.name, model, self.in_flight, owner, logbook)
        handlers = Handlers(
            data=self._reports.receive,
            control=self._startup.receive,
            line=self._reports.line,
            broken=self._protocol_broken,
            ended=self._process_ended,
        )
        self._process = ReplicaProcess(model, handlers, guardian, private)
        self._deadlines = Deadlines(
            self.in_flight,
            timeout=model.timeout.total_seconds(),
            session_timeout=model.session_timeout.total_seconds(),
            time_out=self._time_out,
            overstay=self._overstay,
            flush=self._flush,
        )
        self._arena: Arena | None = None
        self._folders = folders
        self._files: Path | None = None  # the folder for files of its calls
        self._withdraw = self.cancel
        self._grant = self.grant

    # Life

    async def describe(self) -> Schema:
        """Start only to read the model's schema. Raises CallFailed."""
        await self._start(describe_only=True)
        try:
            async with asyncio.timeout(self.model.start_timeout.total_seconds()):
                return await self._startup.described
        except TimeoutError:
            raise CallFailed(Category.UNAVAILABLE, "its code could not be imported in time") from None
        finally:
            self._process.finish()
            await self._end(grace=5.0)

    async def start(self) -> Schema:
        """Start and load; returns the schema. Raises CallFailed with the reason, after the process has ended."""
        await self._start(describe_only=False)
        try:
            async with asyncio.timeout(self.model.start_timeout.total_seconds()):
                schema = await self._startup.described
                await self._startup.ready
        except TimeoutError:
            self.kill(f"did not load within {self.model.start_timeout.total_seconds():g} s")
            await self.exited.wait()
            raise CallFailed(Category.UNAVAILABLE, str(self.end_reason)) from None
        except BaseException:
            self.kill("could not be started")
            await self.exited.wait()
            raise
        self.schema = schema
        if self.state == "starting":
            self.state = "ready"
        self.load_seconds = time.monotonic() - self.started_at
        self._startup.ponged_at = time.monotonic()
        return schema

    async def stop(self, *, grace: float) -> None:
        """End the process: it unloads its model and exits, or is killed after ``grace`` seconds."""
        if self.state != "dead":
            self.state = "stopping"
            self._process.finish()
            await self._end(grace=grace)

    def kill(self, reason: str) -> None:
        """End the process at once, with all that it has started. Its calls are handed back when it has ended."""
        if self.state == "dead" or self.end_reason is not None:
            return
        self.end_reason = reason
        if self.state == "ready":
            self.state = "stopping"
        self._process.kill()

    @property
    def pid(self) -> int | None:
        """The id of the process, once it is started."""
        return self._process.pid

    @property
    def ponged_at(self) -> float:
        """Monotonic time of the last response to a ping."""
        return self._startup.ponged_at

    @property
    def last_words(self) -> str:
        """The newest line of output that bypassed our own capture."""
        return self._reports.last_words

    @property
    def returned(self) -> int:
        """Calls that ended, well or badly."""
        return self.in_flight.returned

    @property
    def load(self) -> int:
        """Calls in flight."""
        return self.in_flight.calls

    @property
    def files(self) -> Path | None:
        """The folder for files of its calls, which may not exist yet."""
        return self._files

    async def _start(self, *, describe_only: bool) -> None:
        """Start the process. A start that is cancelled leaves none behind."""
        starting = asyncio.ensure_future(self._start_process(describe_only=describe_only))
        try:
            await asyncio.shield(starting)
        except CallFailed:
            self.state = "dead"
            self._close_arena()
            self.exited.set()
            raise
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            starting.exception()  # retrieved, so that it is not logged as lost
            self.kill("was no longer needed")
            if self.pid is not None:
                await self.exited.wait()
            raise

    async def _start_process(self, *, describe_only: bool) -> None:
        placement = await devices.place(self.model.manifest.device, environment.of_host())
        if not describe_only:
            self._arena = self._reports.arena = arena()
            self._files = self._reports.files = await self._folder()
        setup = sent.setup(
            self.model,
            device=placement.device,
            arena=self._arena,
            files="" if self._files is None else str(self._files),
            describe_only=describe_only,
        )
        arena_fd = -1 if self._arena is None else self._arena.fd
        await self._process.start(setup, visible_devices=placement.visible, arena_fd=arena_fd)

    def _process_ended(self, how: str) -> None:
        """Hand the calls back after the process has ended, by itself or by ``kill``."""
        orderly = self.state == "stopping" and self.end_reason is None
        self.state = "dead"
        self.end_reason = how = self.end_reason or how
        self._deadlines.close()
        if not orderly and how != exits.described(0):
            self._logbook.add("error", f"the replica ended: {how}", version=self.model.version, replica=self.name)
        output = f"; its last output was: {self.last_words}" if self.last_words else ""
        self._startup.fail(CallFailed(Category.UNAVAILABLE, f"its process ended: {how}{output}"))
        started, unstarted = self.in_flight.clear()
        self._close_arena()
        if self._files is not None:
            self._folders.remove(self._files)
        self.exited.set()
        self._owner.ended(self, started, unstarted)

    async def _folder(self) -> Path | None:
        """Return the folder for files of its calls; None if there can be none, which only calls with files need."""
        try:
            return await self._folders.open() / self.name
        except ModelUnavailable as error:
            log.warning("call_folder_unavailable", model=self.model.name, reason=error.message)
            return None

    def _close_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena = self._reports.arena = None

    async def _end(self, *, grace: float) -> None:
        if self.pid is None:
            return
        if not await set_within(self.exited, grace):
            self.kill(f"did not end within {grace:g} s")
            await self.exited.wait()

    def _protocol_broken(self, problem: str) -> None:
        """End a process that breaks the protocol: nothing that it sends can be trusted."""
        log.warning("replica_protocol_error", model=self.model.name, replica=self.name, problem=problem)
        self.kill(f"broke the protocol: {problem}")

    # Sending

    def send(self, calls: Sequence[LiveCall]) -> None:
        """Send one call, or several that are to run together. They run at once where a place is free, otherwise after
        what the replica has."""
        now = time.perf_counter()
        parts: list[bytes | memoryview] = []
        if len(calls) > 1:
            parts.append(frames.encode(frames.BATCH, 0, frames.BatchHeader(len(calls))))
        for call in calls:
            call.id = next(_call_ids)
            call.sent_at = now
            call.withdraw = self._withdraw
            call.grant = self._grant
            parts += sent.call(call, self._arena)
            if isinstance(call, LiveSession):
                parts += call.begin(self._send_part)
        idle = not self.in_flight.calls
        self.in_flight.add(calls, now)
        self._deadlines.watch()
        self._process.send(parts, at_once=idle)

    def _send_part(self, pieces: Pieces) -> None:
        """Send frames of a session, at once if it is the only call, otherwise with those of the others."""
        self._process.send(pieces, at_once=self.in_flight.calls == 1)

    def cancel(self, call: LiveCall) -> None:
        """Request that the replica stop a call, which it does where it can."""
        if not call.stop_at:
            call.stop_at = time.perf_counter()
            cancel = frames.encode(frames.CANCEL, call.id)
            self._process.send_control(cancel)
            if isinstance(call, LiveSession):
                self._process.send([cancel], at_once=True)

    def grant(self, call: LiveCall, size: int) -> None:
        """Let the model send ``size`` more bytes of chunks. Small grants are sent together: half a window is enough for
        it to continue."""
        call.ungranted += size
        if call.ungranted >= call.window // 2:
            self._process.send_control(frames.credit(call.id, call.ungranted))
            call.ungranted = 0

    def trim(self) -> None:
        """Give back the memory of inputs, if there are none."""
        if self._arena is not None and not self.load:
            self._arena.trim()

    def ping(self) -> None:
        """Send a ping; ``ponged_at`` is when the last response came."""
        self.pinged_at = time.monotonic()
        self._process.send_control(frames.encode(frames.PING))

    def free_if_stuck(self, grace: float) -> None:
        """Kill the process when a cancelled call has continued for ``grace`` seconds and blocks others.

        It blocks others if no other call runs in the replica, or if the replica has not responded to a ping for as
        long: then its interpreter or event loop is blocked, so its other calls do not progress either. They run again
        in another replica.
        """
        stopping = [call for call in self.in_flight.running.values() if call.stop_at]
        if self.state != "ready" or not stopping:
            return
        now, since = time.perf_counter(), min(call.stop_at for call in stopping)
        if now - since < grace:
            return
        silent = self.pinged_at > self.ponged_at and time.monotonic() - self.pinged_at >= grace
        if silent or len(stopping) == len(self.in_flight.running):
            self.overstayed = True
            self.kill(f"a call whose caller had gone did not stop within {grace:g} s")
        elif self.pinged_at <= self.ponged_at:
            self.ping()

    def _time_out(self, call: LiveCall) -> None:
        self._owner.timed_out(call)
        self.cancel(call)

    def _overstay(self) -> None:
        self.overstayed = True
        self.kill("a call or session exceeded its time limit and could not be stopped")

    def _flush(self) -> None:
        self._process.send_control(frames.encode(frames.FLUSH))
