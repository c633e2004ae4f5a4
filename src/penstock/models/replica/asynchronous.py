"""A replica whose runtime is asynchronous: every call is a task on one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Never

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames, output
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.errors import failure, no_sessions
from penstock.models.replica.incoming import Groups
from penstock.models.replica.runtime import AsyncRuntime, Call, Cancelled, Output, current_call
from penstock.models.replica.sessions import AsyncSessions, Session
from penstock.models.replica.wire import Control, ReplicaWire, result

_UNLOAD_SECONDS = 5.0
_MAX_UNSENT_BYTES = 2**22  # above this, lines are left out


class AsyncReplica(asyncio.Protocol):
    """Reads calls, runs each as a task, sends results."""

    def __init__(
        self,
        runtime: AsyncRuntime,
        data: socket.socket,
        control: Control,
        *,
        files: CallFiles,
        arena: memoryview | None,
    ) -> None:
        self._runtime = runtime
        self._data = data
        self._control = control
        self._files = files
        self._wire = ReplicaWire(self._send, files, arena)
        self._groups = Groups(self._wire, abandon=_cancelled_by_control)
        self._tasks: dict[int, tuple[Call, asyncio.Task[None], list[Call]]] = {}  # each with the calls of its task
        self._newest = 0  # id of the last call received; they grow
        self._cancelled_early: set[int] = set()
        self._ending = asyncio.Event()  # the host sends no more calls
        self._closed = asyncio.Event()
        self._left_out = 0  # lines
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.WriteTransport | None = None

    def run(self, give_up: Callable[[Control, BaseException], Never]) -> None:
        """Load, run calls until the host sends no more, unload."""
        runner = asyncio.Runner(loop_factory=_fastest_loop())
        with runner:
            runner.run(self._run(give_up))

    async def _run(self, give_up: Callable[[Control, BaseException], Never]) -> None:
        self._loop = asyncio.get_running_loop()
        output.capture(self._log)
        try:
            await self._loop.create_unix_connection(lambda: self, sock=self._data)
            await self._runtime.load()
        except BaseException as error:  # noqa: BLE001 - foreign code; its error is reported to the host
            give_up(self._control, error)
        self._control.on_call = lambda frame: self._call_soon(self._on_control, frame)
        self._control.on_ping = lambda: self._call_soon(self._control.pong)
        self._control.ready()
        await self._ending.wait()
        for _, task, _ in list(self._tasks.values()):
            task.cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_UNLOAD_SECONDS):
                    await self._runtime.unload()
        finally:
            await self._close()

    async def _close(self) -> None:
        """Send what is left, and close the socket."""
        output.flush()
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_UNLOAD_SECONDS):
                    await self._closed.wait()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for group in self._groups.feed(data):
            task = self._loop.create_task(self._run_group(group))
            task.add_done_callback(partial(self._ended, group))
            for call in group:
                self._tasks[call.id] = (call, task, group)
                self._newest = call.id
                if call.id in self._cancelled_early:
                    self._cancelled_early.discard(call.id)
                    self._cancel(call, task, group)

    def eof_received(self) -> bool:
        self._ending.set()
        return True  # what unloading prints is still sent

    def connection_lost(self, _error: Exception | None) -> None:
        self._ending.set()
        self._closed.set()

    # Calls

    async def _run_group(self, group: list[Call]) -> None:
        try:
            if len(group) == 1:
                await self._one(group[0])
            else:
                await self._batch(group)
        except SystemExit as error:
            output.flush()
            os._exit(error.code if isinstance(error.code, int) else 1)  # a model that exits takes its replica along

    def _ended(self, group: list[Call], task: asyncio.Task[None]) -> None:
        for call in group:
            self._tasks.pop(call.id, None)
            self._files.end(call.id)
            if isinstance(call, Session):
                self._groups.forget(call)
        if task.cancelled():  # before it had begun: no result was sent
            for call in group:
                self._send([failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone"))])

    async def _one(self, call: Call) -> None:
        current_call.set(call)
        began = time.perf_counter()
        try:
            output_of_call = await (self._session(call) if isinstance(call, Session) else self._runtime.predict(call))
            output.flush()
            parts = result(call.id, output_of_call, round(1e6 * (time.perf_counter() - began)), self._files)
        except (Cancelled, asyncio.CancelledError):
            parts = [failure(call.id, CallFailed(Category.CANCELLED, "the caller has gone"))]
        except Exception as error:  # noqa: BLE001 - foreign code; its error is reported to its caller
            output.failed(error)
            parts = [failure(call.id, error)]
        self._send(parts)

    def _session(self, session: Session) -> Awaitable[Output | None]:
        if not isinstance(self._runtime, AsyncSessions):
            raise no_sessions()
        return self._runtime.session(session)

    async def _batch(self, group: list[Call]) -> None:
        began = time.perf_counter()
        outputs: Sequence[Output | Exception]
        try:
            outputs = await self._runtime.predict_batch(group)
            if len(outputs) != len(group):
                raise CallFailed(
                    Category.INTERNAL, f"predict_batch returned {len(outputs)} results for {len(group)} calls"
                )
        except (Cancelled, asyncio.CancelledError):
            outputs = [CallFailed(Category.CANCELLED, "the caller has gone")] * len(group)
        except Exception as error:  # noqa: BLE001 - as above; it belongs to all of them
            output.failed(error)
            outputs = [error] * len(group)
        micros = round(1e6 * (time.perf_counter() - began))
        for call, one in zip(group, outputs, strict=True):
            self._send(self._result(call, one, micros))

    def _result(self, call: Call, one: Output | Exception, micros: int) -> Sequence[bytes | memoryview]:
        if isinstance(one, Exception):
            return [failure(call.id, one)]
        try:
            return result(call.id, one, micros, self._files)
        except (frames.ProtocolError, CallFailed, OSError) as error:
            output.failed(error)
            return [failure(call.id, error)]

    def _on_control(self, frame: frames.Frame) -> None:
        found = self._tasks.get(frame.id)
        if found is None:
            if frame.kind == frames.CANCEL and frame.id > self._newest:  # it arrived first, on the other socket
                self._cancelled_early.add(frame.id)
            return
        call, task, group = found
        match frame.kind:
            case frames.CANCEL:
                self._cancel(call, task, group)
            case frames.CREDIT:
                call.grant(frames.credit_in(frame))

    def _cancel(self, call: Call, task: asyncio.Task[None], group: list[Call]) -> None:
        call.cancel()
        if all(other.cancelled for other in group):
            task.cancel()  # a batch continues while there is a caller for it

    # Bytes

    def _log(self, level: str, line: str) -> None:
        """Send a line that the model wrote; leave it out while too many wait to be sent."""
        if self._transport is not None and self._transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self._left_out += 1
            return
        if self._left_out:
            count, self._left_out = self._left_out, 0
            self._wire.log(None, "warning", f"{count} lines were left out: they came faster than they could be sent")
        self._wire.log(current_call.get(), level, line)

    def _call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        if threading.get_ident() != self._thread:
            self._call_soon(self._send, parts)
        elif self._transport is not None:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


def _cancelled_by_control(_session: Session) -> None:
    """Leave a session whose caller has gone to the frame on the control channel, which cancels its task."""


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415  (a model's own interpreter may be without it)
    except ModuleNotFoundError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
