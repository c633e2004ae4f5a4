"""One replica as its host sees it: what it was sent, what it answers, whether it lives."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from penstock.models.host import devices, environment
from penstock.models.host.calls import LiveCall
from penstock.models.host.guardian import Guardian
from penstock.models.host.logbook import Logbook
from penstock.models.host.process import ReplicaProcess
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Schema, Segment
from penstock.outbound.failure import CallFailed
from penstock.processes import exits
from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_STOP_SECONDS: Final = 1.0  # for a call that has had its time to stop, before its replica is killed
_LONGEST_LINE: Final = 16 * 1024  # characters of a log line

_numbers = itertools.count(1)
_call_ids = itertools.count(1)
_reply = frames.header_decoder(frames.OutputHeader)
_failed = frames.header_decoder(frames.FailureHeader)
_line = frames.header_decoder(frames.LogHeader)


class Owner(Protocol):
    """Who a replica belongs to. Called on the event loop."""

    def answered(self, call: LiveCall, json: bytes, segments: Sequence[Segment], micros: int) -> None: ...
    def refused(self, call: LiveCall, failed: frames.FailureHeader) -> None: ...
    def timed_out(self, call: LiveCall) -> None: ...
    def ended(self, replica: Replica, started: Sequence[LiveCall], unstarted: Sequence[LiveCall]) -> None: ...


class Batch:
    """Calls that were sent together and take one place."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Replica:
    """A process that runs one model. Owned by a deployment, which hears what becomes of its calls.

    ``running`` holds the calls that the process may have begun, ``ahead`` those that were sent early so that it need
    not wait for the next one; both in the order of sending. Occupied places are counted in batches.
    """

    def __init__(
        self, model: Model, owner: Owner, guardian: Guardian, logbook: Logbook, private: frozenset[str]
    ) -> None:
        self.name = f"r{next(_numbers)}"
        self.model = model
        self.state = "starting"  # "ready", "stopping", "dead"
        self.schema: Schema | None = None
        self.started_at = time.monotonic()
        self.load_seconds: float | None = None
        self.running: dict[int, LiveCall] = {}
        self.ahead: deque[LiveCall] = deque()
        self.busy = 0  # places taken
        self.answers = 0
        self.end_reason: str | None = None  # why we killed it
        self.over_limit = False  # because it used too much memory
        self.exited = asyncio.Event()
        self._owner = owner
        self._logbook = logbook
        self._process = ReplicaProcess(model, self, guardian, private)
        self._batches: dict[int, Batch] = {}
        self._described: asyncio.Future[Schema] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = model.timeout.total_seconds()
        self.last_words = ""  # the newest line of its log past our own capture
        self.pinged_at = 0.0
        self.ponged_at = 0.0

    # Life

    async def describe(self) -> Schema:
        """Start only to learn the model's schema. Raises CallFailed."""
        await self._start(describe_only=True)
        try:
            async with asyncio.timeout(self.model.start_timeout.total_seconds()):
                return await self._described
        except TimeoutError:
            raise CallFailed("unavailable", "its code could not be imported in time") from None
        finally:
            self._process.finish()
            await self._end(grace=5.0)

    async def start(self) -> Schema:
        """Start and load; answers the schema. Raises CallFailed with the reason, then the process has ended."""
        await self._start(describe_only=False)
        try:
            async with asyncio.timeout(self.model.start_timeout.total_seconds()):
                schema = await self._described
                await self._ready
        except TimeoutError:
            self.kill(f"did not load within {self.model.start_timeout.total_seconds():g} s")
            await self.exited.wait()
            raise CallFailed("unavailable", str(self.end_reason)) from None
        except BaseException:
            self.kill("could not be started")
            await self.exited.wait()
            raise
        self.schema = schema
        if self.state == "starting":
            self.state = "ready"
        self.load_seconds = time.monotonic() - self.started_at
        self.ponged_at = time.monotonic()
        return schema

    async def stop(self, *, grace: float) -> None:
        """End in order: the process unloads its model and exits; killed after ``grace`` seconds."""
        if self.state != "dead":
            self.state = "stopping"
            self._process.finish()
            await self._end(grace=grace)

    def kill(self, reason: str) -> None:
        """End it at once, with all that it has started; its calls learn of it when the process has ended."""
        if self.state == "dead" or self.end_reason is not None:
            return
        self.end_reason = reason
        if self.state == "ready":
            self.state = "stopping"
        self._process.kill()

    @property
    def pid(self) -> int | None:
        """The process, once it is started."""
        return self._process.pid

    @property
    def load(self) -> int:
        """Calls in flight."""
        return len(self.running) + len(self.ahead)

    async def _start(self, *, describe_only: bool) -> None:
        """Start the process. A start that is cancelled leaves none behind."""
        starting = asyncio.ensure_future(self._start_process(describe_only=describe_only))
        try:
            await asyncio.shield(starting)
        except CallFailed:
            self.state = "dead"
            self.exited.set()
            raise
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            starting.exception()  # nobody wants to know it any more
            self.kill("was not needed any more")
            if self.pid is not None:
                await self.exited.wait()
            raise

    async def _start_process(self, *, describe_only: bool) -> None:
        placement = await devices.place(self.model.manifest.device, environment.of_host())
        setup = msgspec.json.encode(self._setup(placement.device, describe_only=describe_only))
        await self._process.start(setup, placement.visible)

    def _setup(self, device: str, *, describe_only: bool) -> frames.Setup:
        model = self.model
        return frames.Setup(
            runtime=model.manifest.runtime,
            name=model.name,
            version=model.version,
            folder=str(model.folder),
            options=model.manifest.options,
            schema=msgspec.to_builtins(model.schema),
            device=device,
            concurrency=model.concurrency,
            timeout=self._timeout,
            describe_only=describe_only,
        )

    def process_ended(self, how: str) -> None:
        """The process has ended, by itself or by ``kill``; its calls are handed back."""
        orderly = self.state == "stopping" and self.end_reason is None
        self.state = "dead"
        self.end_reason = how = self.end_reason or how
        if self._timer is not None:
            self._timer.cancel()
        if not orderly and how != exits.described(0):
            self._logbook.add("error", f"the replica ended: {how}", version=self.model.version, replica=self.name)
        said = f", and said: {self.last_words}" if self.last_words else ""
        error = CallFailed("unavailable", f"its process ended: {how}{said}")
        for future in (self._described, self._ready):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting
        started, unstarted = list(self.running.values()), list(self.ahead)
        self.running.clear()
        self.ahead.clear()
        self._batches.clear()
        self.busy = 0
        self.exited.set()
        self._owner.ended(self, started, unstarted)

    async def _end(self, *, grace: float) -> None:
        if self.pid is None:
            return
        if not await set_within(self.exited, grace):
            self.kill(f"did not end within {grace:g} s")
            await self.exited.wait()

    def protocol_broken(self, problem: str) -> None:
        """The peer breaks the protocol: nothing that it says can be trusted any more."""
        log.warning("replica_protocol_error", model=self.model.name, replica=self.name, problem=problem)
        self.kill(f"broke the protocol: {problem}")

    # Sending

    def send(self, call: LiveCall, *, ahead: bool = False) -> None:
        """Send one call; ``ahead`` of the ones that run."""
        self.busy += 1
        self._note(call, ahead=ahead)
        self._process.write(self._parts(call))

    def send_batch(self, calls: Sequence[LiveCall]) -> None:
        """Send calls that are to be answered together."""
        self.busy += 1
        batch = Batch(len(calls))
        parts: list[bytes | memoryview] = [frames.encode(frames.BATCH, 0, frames.BatchHeader(len(calls)))]
        for call in calls:
            self._note(call, ahead=False)
            self._batches[call.id] = batch
            parts += self._parts(call)
        self._process.write(parts)

    def cancel(self, call: LiveCall) -> None:
        """Its caller has gone: the replica ends the work where it can."""
        self._process.tell(frames.encode(frames.CANCEL, call.id))

    def hold_back(self, call: LiveCall, *, hold: bool) -> None:
        """Have the model wait before its next chunk, or go on."""
        self._process.tell(frames.encode(frames.PAUSE if hold else frames.RESUME, call.id))

    def ping(self) -> None:
        """Ask for a sign of life; ``ponged_at`` tells when one came."""
        self.pinged_at = time.monotonic()
        self._process.tell(frames.encode(frames.PING))

    def _note(self, call: LiveCall, *, ahead: bool) -> None:
        call.id = next(_call_ids)
        call.replica = self
        call.sent_at = now = time.perf_counter()
        if ahead:
            self.ahead.append(call)
        else:
            self._begin(call, now)

    def _begin(self, call: LiveCall, now: float) -> None:
        call.started_at = now
        self.running[call.id] = call
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout, self._check_timeout)

    def _parts(self, call: LiveCall) -> list[bytes | memoryview]:
        segments = call.segments
        if not segments:
            header = frames.CallHeader(call.request_id, call.streams)
            return [frames.encode(frames.CALL, call.id, header, call.input)]
        stated = [frames.SegmentHeader(len(s.data), s.media_type, list(s.path), s.name) for s in segments]
        header = frames.CallHeader(call.request_id, call.streams, stated)
        return frames.encode_parts(frames.CALL, call.id, header, [call.input, *(s.data for s in segments)])

    def _check_timeout(self) -> None:
        """Calls that have had their time are over for their callers; the replica may stop them, or it is killed."""
        self._timer = None
        now = time.perf_counter()
        due: list[float] = []
        for call in list(self.running.values()):
            overdue = now - call.started_at - self._timeout
            if overdue < 0:
                due.append(-overdue)
            elif not call.timed_out:
                call.timed_out = True
                self._owner.timed_out(call)
                self.cancel(call)
                due.append(_STOP_SECONDS)
            elif overdue < _STOP_SECONDS:
                due.append(_STOP_SECONDS - overdue)
            else:
                self.kill(f"a call took longer than {self._timeout:g} s and could not be stopped")
                return
        if due:
            self._timer = asyncio.get_running_loop().call_later(min(due), self._check_timeout)

    # What the process says (penstock.models.host.process.Hearer)

    def data_came(self, found: Sequence[frames.Frame]) -> None:
        for frame in found:
            kind = frame.kind
            if kind == frames.RESULT:
                reply: frames.OutputHeader = frames.decode_header(_reply, frame.header)
                json, segments = _output(frame, reply)
                if json:
                    _json(json)
                call = self._finish(frame.id)
                self._owner.answered(call, json, segments, reply.micros)
            elif kind == frames.CHUNK:
                self._chunk(frame)
            elif kind == frames.FAILURE:
                failed: frames.FailureHeader = frames.decode_header(_failed, frame.header)
                self._owner.refused(self._finish(frame.id), failed)
            elif kind == frames.PROGRESS:
                self._progress(frame)
            elif kind == frames.LOG:
                self._log_frame(frame)
            else:
                raise frames.ProtocolError(f"kind {kind} on the data channel")

    def _chunk(self, frame: frames.Frame) -> None:
        json, segments = _output(frame, frames.decode_header(_reply, frame.header))
        call = self._known(frame.id)
        if not call.abandoned:
            call.add_chunk(_json(json), segments)

    def _progress(self, frame: frames.Frame) -> None:
        call = self._known(frame.id)
        if call.listener is not None and not call.abandoned:
            call.listener.progress(_json(frame.body))

    def _log_frame(self, frame: frames.Frame) -> None:
        line: frames.LogHeader = frames.decode_header(_line, frame.header)
        call = self.running.get(frame.id) or next((one for one in self.ahead if one.id == frame.id), None)
        self._log(line.level, line.message, call)

    def _log(self, level: str, message: str, call: LiveCall | None) -> None:
        request_id = None if call is None else call.request_id
        entry = self._logbook.add(
            level, message[:_LONGEST_LINE], version=self.model.version, replica=self.name, request_id=request_id
        )
        if call is not None and call.listener is not None and not call.abandoned:
            call.listener.log(entry.level, entry.message)

    def _known(self, call_id: int) -> LiveCall:
        call = self.running.get(call_id)
        if call is not None:
            return call
        for call in self.ahead:
            if call.id == call_id:
                return call
        raise frames.ProtocolError(f"there is no call {call_id}")

    def _finish(self, call_id: int) -> LiveCall:
        """Take a call off the books; the next one that was sent ahead is running from now on."""
        call = self.running.pop(call_id, None)
        if call is None:
            call = self._known(call_id)
            self.ahead.remove(call)
        batch = self._batches.pop(call_id, None)
        if batch is not None:
            batch.left -= 1
        if batch is None or not batch.left:
            self.busy -= 1
        self.answers += 1
        if self.ahead and len(self.running) < self.model.concurrency:
            self._begin(self.ahead.popleft(), time.perf_counter())
        return call

    def control_came(self, found: Sequence[frames.Frame]) -> None:
        for frame in found:
            match frame.kind:
                case frames.HELLO:
                    try:
                        schema = msgspec.json.decode(frame.body, type=Schema)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                        raise frames.ProtocolError(f"the schema cannot be read: {error}") from None
                    if not self._described.done():
                        self._described.set_result(schema)
                case frames.READY:
                    if not self._ready.done():
                        self._ready.set_result(None)
                case frames.BROKEN:
                    self._cannot_start(frames.decode_header(_failed, frame.header))
                case frames.PONG:
                    self.ponged_at = time.monotonic()
                case _:
                    raise frames.ProtocolError(f"kind {frame.kind} on the control channel")

    def _cannot_start(self, failed: frames.FailureHeader) -> None:
        message = self._logbook.masked(failed.message)
        self._logbook.add("error", f"cannot start: {message}", version=self.model.version, replica=self.name)
        for future in (self._described, self._ready):
            if not future.done():
                future.set_exception(CallFailed("unavailable", message))
                future.exception()

    def line_came(self, level: str, text: str) -> None:
        """What the process wrote past our own capture."""
        self.last_words = text[:300]
        # With one call at a time there is no doubt whose line it is.
        call = next(iter(self.running.values())) if len(self.running) == 1 else None
        self._log(level, text, call)


def _output(frame: frames.Frame, reply: frames.OutputHeader) -> tuple[bytes, Sequence[Segment]]:
    if not reply.segments:
        return frame.body, ()
    json, pieces = frames.split(frame.body, reply.segments)
    return json, [
        Segment(piece, stated.media_type, tuple(stated.path), stated.name)
        for piece, stated in zip(pieces, reply.segments, strict=True)
    ]


_any_json = msgspec.json.Decoder(msgspec.Raw)


def _json(body: bytes) -> bytes:
    """``body``, which must be JSON; raises ProtocolError."""
    try:
        _any_json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise frames.ProtocolError("a value is not JSON") from None
    return body
