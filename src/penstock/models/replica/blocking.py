"""A replica whose runtime blocks: calls run on the main thread one after the other, or in so many threads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Never

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames, output
from penstock.models.replica.errors import failure
from penstock.models.replica.interrupting import notice_what_is_lost, shielded
from penstock.models.replica.runtime import BlockingRuntime, Call, Cancelled, Output, current_call
from penstock.models.replica.wire import Control, ReplicaWire, received, result

_READ = 2**18  # bytes
_TOGETHER = 0.0002  # seconds that a quick call's result may wait for the next one to travel with it
_MAX_TOGETHER = 2**16  # bytes

_batch_header = frames.header_decoder(frames.BatchHeader)


class BlockingReplica:
    """Reads calls, runs them, writes answers; cancels and pauses come in on the control thread."""

    def __init__(self, runtime: BlockingRuntime, data: socket.socket, control: Control, *, threads: int) -> None:
        self._runtime = runtime
        self._data = data
        self._control = control
        self._threads = threads
        self._wire = ReplicaWire(self._send)
        self._sending = threading.Lock()
        self._unsent: list[bytes | memoryview] = []
        self._unsent_bytes = 0
        self._unsent_since = 0.0
        self._calls: dict[int, Call] = {}  # received and not answered
        self._newest = 0  # id of the last one received; they grow
        self._cancelled_early: set[int] = set()
        self._noting = threading.Lock()

    def run(self, give_up: Callable[[Control, BaseException], Never]) -> None:
        """Load, answer calls until the host closes the socket, unload."""
        output.capture(self._log)
        notice_what_is_lost()
        try:
            self._runtime.load()
        except BaseException as error:  # noqa: BLE001 - foreign code; the host is told
            give_up(self._control, error)
        self._control.on_call = self._on_control
        self._control.listen()
        self._control.send(frames.encode(frames.READY))
        try:
            if self._threads > 1:
                self._serve_in_threads()
            else:
                self._serve()
        finally:
            self._runtime.unload()
            output.flush()
            self._flush()

    def _log(self, level: str, line: str) -> None:
        """A line that the model wrote; a cancel must not break off the writing of a frame."""
        with shielded():
            self._wire.log(current_call.get(), level, line)

    # Calls

    def _serve(self) -> None:
        waiting: deque[list[Call]] = deque()
        decoder = Groups(self._wire)
        while data := self._receive():
            for group in decoder.feed(data):
                self._take(group)
                waiting.append(group)
            while waiting:
                self._answer(waiting.popleft(), more=bool(waiting))

    def _serve_in_threads(self) -> None:
        decoder = Groups(self._wire)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="penstock-call") as pool:
            while data := self._receive():
                for group in decoder.feed(data):
                    self._take(group)
                    pool.submit(self._answer, group, more=False)

    def _take(self, group: list[Call]) -> None:
        """Note calls that have arrived. Their cancels come another way, and may have been quicker."""
        with self._noting:
            for call in group:
                self._calls[call.id] = call
                self._newest = call.id
                if call.id in self._cancelled_early:
                    self._cancelled_early.discard(call.id)
                    call.cancelled = True

    def _answer(self, group: list[Call], *, more: bool) -> None:
        """Run calls that belong together and write their answers; ``more``: others wait behind them."""
        try:
            if len(group) == 1:
                self._one(group[0], more=more)
            else:
                self._batch(group)
        except SystemExit as error:
            output.flush()
            os._exit(error.code if isinstance(error.code, int) else 1)  # a model that exits takes its replica along

    def _one(self, call: Call, *, more: bool) -> None:
        current_call.set(call)
        began = time.perf_counter()
        try:
            if call.cancelled:
                raise Cancelled
            answer = self._runtime.predict(call)
            output.flush()
            parts = result(call.id, answer, round(1e6 * (time.perf_counter() - began)))
        except Exception as error:  # noqa: BLE001 - foreign code; its error is its caller's answer
            parts = self._failed(call, error)
        except Cancelled:
            parts = [failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone"))]
        self._finish(call)
        self._send(parts, together=more and time.perf_counter() - began < _TOGETHER)

    def _batch(self, group: list[Call]) -> None:
        wanted = [call for call in group if not call.cancelled]
        current_call.set(wanted[0] if len(wanted) == 1 else None)
        began = time.perf_counter()
        answers: Sequence[Output | Exception] = []
        try:
            if wanted:
                answers = self._runtime.predict_batch(wanted)
            if len(answers) != len(wanted):
                raise CallFailed(
                    Category.INTERNAL, f"predict_batch answered {len(answers)} results for {len(wanted)} calls"
                )
        except Exception as error:  # noqa: BLE001 - as above; it belongs to all of them
            answers = [error] * len(wanted)
        except Cancelled:
            answers = [CallFailed(Category.CANCELLED, "the caller has gone")] * len(wanted)
        micros = round(1e6 * (time.perf_counter() - began))
        parts: list[bytes | memoryview] = []
        for call, answer in zip(wanted, answers, strict=True):
            try:
                parts += (
                    [failure(call.id, answer)] if isinstance(answer, Exception) else result(call.id, answer, micros)
                )
            except frames.ProtocolError as error:
                parts += self._failed(call, error)
        for call in group:
            if call not in wanted:
                parts.append(failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone")))
            self._finish(call)
        self._send(parts)

    def _failed(self, call: Call, error: Exception) -> list[bytes | memoryview]:
        output.failed(error)
        return [failure(call.id, error)]

    def _finish(self, call: Call) -> None:
        self._calls.pop(call.id, None)
        current_call.set(None)

    def _on_control(self, frame: frames.Frame) -> None:
        if frame.kind == frames.FLUSH:
            self._flush_now()
            return
        with self._noting:
            call = self._calls.get(frame.id)
            if call is None:
                if frame.kind == frames.CANCEL and frame.id > self._newest:
                    self._cancelled_early.add(frame.id)
                return
        match frame.kind:
            case frames.CANCEL:
                call.cancel()
            case frames.CREDIT:
                call.grant(frames.credit_in(frame))

    # Bytes

    def _receive(self) -> bytes:
        self._flush()
        try:
            return self._data.recv(_READ)
        except OSError:
            return b""

    def _send(self, parts: Sequence[bytes | memoryview], *, together: bool = False) -> None:
        """Write to the host. ``together``: answers that follow at once may travel in one system call."""
        with self._sending:
            self._unsent += parts
            self._unsent_bytes += sum(map(len, parts))
            now = time.perf_counter()
            if together and self._unsent_bytes < _MAX_TOGETHER:
                if not self._unsent_since:
                    self._unsent_since = now
                if now - self._unsent_since < _TOGETHER:
                    return
            self._write()

    def _flush_now(self) -> None:
        """Send what waits, on the control thread: a long call has followed a quick one."""
        if self._sending.acquire(blocking=False):  # otherwise the other thread is sending it
            try:
                self._write()
            finally:
                self._sending.release()

    def _flush(self) -> None:
        with self._sending:
            self._write()

    def _write(self) -> None:
        parts, self._unsent = self._unsent, []
        self._unsent_bytes, self._unsent_since = 0, 0.0
        if not parts:
            return
        try:
            if sum(map(len, parts)) <= _MAX_TOGETHER:
                self._data.sendall(b"".join(parts))
            else:
                for part in parts:
                    self._data.sendall(part)
        except OSError:
            pass  # the host has gone: reading ends the process


class Groups:
    """Calls as they arrive, those that belong together as one group."""

    def __init__(self, wire: ReplicaWire) -> None:
        self._wire = wire
        self._decoder = frames.Decoder()
        self._group: list[Call] = []
        self._missing = 0

    def feed(self, data: bytes) -> list[list[Call]]:
        groups: list[list[Call]] = []
        for frame in self._decoder.feed(data):
            if frame.kind == frames.BATCH:
                self._missing = frames.decode_header(_batch_header, frame.header).count
                self._group = []
                continue
            call = received(frame, self._wire)
            if not self._missing:
                groups.append([call])
                continue
            self._group.append(call)
            self._missing -= 1
            if not self._missing:
                groups.append(self._group)
        return groups
