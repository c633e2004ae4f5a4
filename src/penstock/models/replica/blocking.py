"""A replica whose runtime blocks: calls run one after the other on the main thread, or in several threads."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Never

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames, output
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.errors import failure, no_sessions
from penstock.models.replica.incoming import Groups, Reader
from penstock.models.replica.interrupting import resend_lost_exceptions, shielded
from penstock.models.replica.outgoing import Outgoing, clock, quick
from penstock.models.replica.runtime import BlockingRuntime, Call, Cancelled, Output, current_call
from penstock.models.replica.sessions import BlockingSessions, Session
from penstock.models.replica.wire import Control, ReplicaWire, result


class BlockingReplica:
    """Reads calls, runs them and sends results; cancels and credit come in on the control thread."""

    def __init__(
        self,
        runtime: BlockingRuntime,
        data: socket.socket,
        control: Control,
        *,
        threads: int,
        files: CallFiles,
        arena: memoryview | None,
    ) -> None:
        self._runtime = runtime
        self._incoming = Reader(data)
        self._outgoing = Outgoing(data)
        self._control = control
        self._threads = threads
        self._files = files
        self._wire = ReplicaWire(self._outgoing.send, files, arena)
        self._groups = Groups(self._wire)
        self._waiting: deque[list[Call]] = deque()  # received, and not begun; used where there is one thread
        self._broken: frames.ProtocolError | None = None  # what the host sent while a session waited for a part
        self._calls: dict[int, Call] = {}  # received, and not ended
        self._newest = 0  # id of the last one received; they grow
        self._cancelled_early: set[int] = set()
        self._noting = threading.Lock()

    def run(self, give_up: Callable[[Control, BaseException], Never]) -> None:
        """Load, run calls until the host sends no more, unload."""
        output.capture(self._log)
        resend_lost_exceptions()
        try:
            self._runtime.load()
        except BaseException as error:  # noqa: BLE001 - foreign code; its error is reported to the host
            give_up(self._control, error)
        self._control.on_call = self._on_control
        self._control.ready()
        try:
            if self._threads > 1:
                self._serve_in_threads()
            else:
                self._serve()
        finally:
            self._runtime.unload()
            output.flush()
            self._outgoing.flush()

    def _log(self, level: str, line: str) -> None:
        """Send a line that the model wrote. A cancel must not interrupt the writing of a frame."""
        with shielded():
            self._wire.log(current_call.get(), level, line)

    # Calls

    def _serve(self) -> None:
        waiting = self._waiting
        while self._read():
            while waiting:
                self._run(waiting.popleft(), more=bool(waiting))

    def _read(self) -> bool:
        """Wait for frames, and append the calls among them to those that wait; return False when no more come."""
        if self._broken is not None:
            raise self._broken
        data = self._receive()
        received = self._groups.feed(data)
        self._take(received)
        self._waiting += received
        return bool(data)

    def _read_for_session(self) -> None:
        """Wait for frames on the thread that runs a session, which waits for a part. Nothing is raised there: an error
        would reach the model's code."""
        try:
            more = self._read()
        except frames.ProtocolError as error:
            self._broken = error
            more = False
        if not more:
            self._groups.abandon_all()

    def _serve_in_threads(self) -> None:
        with ThreadPoolExecutor(self._threads, thread_name_prefix="penstock-call") as pool:
            try:
                while data := self._receive():
                    received = self._groups.feed(data)
                    self._take(received)
                    for group in received:
                        pool.submit(self._run, group, more=False)
            finally:
                self._groups.abandon_all()

    def _receive(self) -> bytes:
        self._outgoing.flush()
        return self._incoming.read()

    def _take(self, groups: list[list[Call]]) -> None:
        """Register calls that have arrived. Their cancels use another socket and may have arrived earlier."""
        with self._noting:
            for group in groups:
                for call in group:
                    self._calls[call.id] = call
                    self._newest = call.id
            if self._cancelled_early:
                self._cancel_early()

    def _cancel_early(self) -> None:
        for call_id in self._cancelled_early & self._calls.keys():
            self._cancelled_early.discard(call_id)
            self._calls[call_id].cancelled = True

    def _run(self, group: list[Call], *, more: bool) -> None:
        """Run calls that belong together and send their results; ``more``: others wait behind them."""
        try:
            if len(group) == 1:
                self._one(group[0], more=more)
            else:
                self._batch(group)
        except SystemExit as error:
            output.flush()
            self._outgoing.flush()
            os._exit(error.code if isinstance(error.code, int) else 1)  # a model that exits takes its replica along

    def _one(self, call: Call, *, more: bool) -> None:
        current_call.set(call)
        began = clock()
        try:
            if call.cancelled:
                raise Cancelled
            returned = self._session(call) if isinstance(call, Session) else self._runtime.predict(call)
            output.flush()
            took = clock() - began
            parts = result(call.id, returned, int(1e6 * took), self._files)
        except Exception as error:  # noqa: BLE001 - foreign code; its error is reported to its caller
            took = clock() - began
            parts = self._failed(call, error)
        except Cancelled:
            took = clock() - began
            parts = [failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone"))]
        current_call.set(None)
        self._files.end(call.id)
        del self._calls[call.id]
        if more and quick(took):
            self._outgoing.keep(parts, began + took)
        else:
            self._outgoing.send(parts)

    def _session(self, session: Session) -> Output | None:
        if not isinstance(self._runtime, BlockingSessions):
            raise no_sessions()
        if self._threads == 1:
            session.read_more = self._read_for_session
        try:
            return self._runtime.session(session)
        finally:
            self._groups.forget(session)

    def _batch(self, group: list[Call]) -> None:
        wanted = [call for call in group if not call.cancelled]
        current_call.set(wanted[0] if len(wanted) == 1 else None)
        began = clock()
        outputs: Sequence[Output | Exception] = []
        try:
            if wanted:
                outputs = self._runtime.predict_batch(wanted)
            if len(outputs) != len(wanted):
                raise CallFailed(
                    Category.INTERNAL, f"predict_batch returned {len(outputs)} results for {len(wanted)} calls"
                )
        except Exception as error:  # noqa: BLE001 - as above; it belongs to all of them
            outputs = [error] * len(wanted)
        except Cancelled:
            outputs = [CallFailed(Category.CANCELLED, "the caller has gone")] * len(wanted)
        micros = round(1e6 * (clock() - began))
        parts: list[bytes | memoryview] = []
        for call, one in zip(wanted, outputs, strict=True):
            try:
                if isinstance(one, Exception):
                    parts.append(failure(call.id, one))
                else:
                    parts += result(call.id, one, micros, self._files)
            except (frames.ProtocolError, CallFailed, OSError) as error:
                parts += self._failed(call, error)
        for call in group:
            if call not in wanted:
                parts.append(failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone")))
            self._files.end(call.id)
            del self._calls[call.id]
        current_call.set(None)
        self._outgoing.send(parts)

    def _failed(self, call: Call, error: Exception) -> list[bytes | memoryview]:
        output.failed(error)
        return [failure(call.id, error)]

    def _on_control(self, frame: frames.Frame) -> None:
        if frame.kind == frames.FLUSH:
            self._outgoing.flush_if_idle()  # a long call follows a quick one
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
