"""The process of a replica: its two sockets, the lines that it writes, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from penstock.errors import PenstockError
from penstock.failures import CallFailed, Category
from penstock.models.host import environment
from penstock.models.host.guardian import Guardian
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.processes import exits
from penstock.telemetry import logs

log = logs.get(__name__)

Receive = Callable[[Sequence[frames.Frame]], None]

_READ_BYTES: Final = 2**16
_JOINED_BYTES: Final = 2**16  # frames are copied into one piece up to this size
_MAX_LINE_BYTES: Final = 16 * 1024
_DRAIN_SECONDS: Final = 0.5  # to read what a process wrote before it ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """Callbacks for events of the process, called on the event loop; the last one is ``ended``."""

    data: Receive
    control: Receive
    line: Callable[[str, str], None]  # level, text
    broken: Callable[[str], None]  # how it broke the protocol
    ended: Callable[[str], None]  # how it ended


class ReplicaProcess:
    """One process, in a group of its own with all that it starts."""

    def __init__(self, model: Model, handlers: Handlers, guardian: Guardian, private: frozenset[str]) -> None:
        self.pid: int | None = None
        self._model = model
        self._handlers = handlers
        self._guardian = guardian
        self._private = private
        self._data: asyncio.WriteTransport | None = None
        self._control: asyncio.WriteTransport | None = None
        self._finished = False
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes | memoryview] = []
        self._channels: list[_Channel] = []
        self._reading: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self, setup: bytes, *, visible_devices: str = "", arena_fd: int = -1) -> None:
        """Start the process and send its setup. Raises CallFailed.

        The process sees only the GPU ``visible_devices``, and inherits ``arena_fd``.
        """
        try:
            await self._start(visible_devices, arena_fd)
        except (PenstockError, OSError) as error:
            self.kill()
            if self._watching is not None:
                await asyncio.wait([self._watching])
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise CallFailed(Category.UNAVAILABLE, f"its process cannot be started: {reason}") from error
        self.send_control(frames.encode(frames.SETUP, 0, None, setup))

    def send(self, parts: Sequence[bytes | memoryview], *, at_once: bool) -> None:
        """Send frames of calls: ``at_once``, or with all others of this turn of the event loop in one system call."""
        if at_once:
            self._unsent += parts
            self._flush()
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += parts

    def _flush(self) -> None:
        parts, self._unsent = self._unsent, []
        if not parts or self._data is None or self._finished or self._data.is_closing():
            return
        if len(parts) == 1:
            self._data.write(parts[0])
        elif sum(map(len, parts)) <= _JOINED_BYTES:
            self._data.write(b"".join(parts))
        else:
            self._data.writelines(parts)

    def send_control(self, frame: bytes) -> None:
        """Send a control frame, which never waits behind calls."""
        if self._control is not None and not self._control.is_closing():
            self._control.write(frame)

    def finish(self) -> None:
        """Signal that no more calls come, so that the process unloads its model and ends. Its output is still read."""
        self._flush()
        if self._data is not None and not self._finished and not self._data.is_closing():
            self._finished = True
            self._data.write_eof()

    def kill(self) -> None:
        """Kill the process and its descendants."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # it has ended
                os.killpg(self.pid, signal.SIGKILL)

    async def _start(self, visible_devices: str, arena_fd: int) -> None:
        data, data_there = socket.socketpair()
        control, control_there = socket.socketpair()
        try:
            with data_there, control_there:
                process = await self._spawn((data_there.fileno(), control_there.fileno(), arena_fd), visible_devices)
            self._attend(process)
            await self._guardian.watch(process.pid)
            self._data = await self._connect(data, self._handlers.data)
            self._control = await self._connect(control, self._handlers.control)
        finally:  # once connected they belong to their transports
            for end, transport in ((data, self._data), (control, self._control)):
                if transport is None:
                    end.close()

    def _attend(self, process: Process) -> None:
        self.pid = process.pid
        loop = asyncio.get_running_loop()
        self._reading = [
            loop.create_task(self._read_lines(process.stdout, "info")),
            loop.create_task(self._read_lines(process.stderr, "warning")),
        ]
        self._watching = loop.create_task(self._watch(process))

    async def _spawn(self, fds: tuple[int, ...], visible_devices: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *environment.command(self._model, *fds),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment.variables(
                self._model, ours=environment.of_host(), private=self._private, visible_devices=visible_devices
            ),
            cwd=environment.working_folder(self._model),
            pass_fds=[fd for fd in fds if fd >= 0],
            start_new_session=True,
        )

    async def _connect(self, connection: socket.socket, receive: Receive) -> asyncio.WriteTransport:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        make = partial(_Channel, receive, self._handlers.broken, loop.create_future())
        transport, channel = await loop.create_unix_connection(make, sock=connection)
        self._channels.append(channel)
        return transport

    async def _watch(self, process: Process) -> None:
        status = await process.wait()
        self.kill()  # the process's descendants must not outlive it
        self._guardian.release(process.pid)
        await asyncio.wait([*self._reading, *(channel.closed for channel in self._channels)], timeout=_DRAIN_SECONDS)
        for task in self._reading:
            task.cancel()
        for transport in (self._data, self._control):
            if transport is not None:
                transport.abort()
        self._handlers.ended(exits.described(status))

    async def _read_lines(self, stream: asyncio.StreamReader | None, level: str) -> None:
        """Read output that bypasses our own capture: of native code, of programs, and of a crash."""
        rest = b""
        while stream is not None and (data := await stream.read(_READ_BYTES)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._report_line(line, level)
        self._report_line(rest, level)

    def _report_line(self, line: bytes, level: str) -> None:
        text = line[:_MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if text:
            self._handlers.line(level, text)


class _Channel(asyncio.Protocol):
    """The host's end of one socket. No exception leaves it, whatever the peer sends."""

    def __init__(self, receive: Receive, broken: Callable[[str], None], closed: asyncio.Future[None]) -> None:
        self.closed = closed
        self._receive = receive
        self._broken = broken
        self._decoder = frames.Decoder()
        self._failed = False

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        try:
            self._receive(self._decoder.feed(data))
        except frames.ProtocolError as error:
            self._failed = True
            self._broken(str(error))
        except Exception:  # a bug that concerns one replica must not disturb the others
            self._failed = True
            log.exception("replica_frame_failed")
            self._broken("a frame could not be handled")

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
