"""The system's side of a replica: a process with two sockets, the lines that it writes, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from penstock.errors import PenstockError
from penstock.models.host import environment
from penstock.models.host.guardian import Guardian
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.outbound.failure import CallFailed
from penstock.processes import exits
from penstock.telemetry import logs

log = logs.get(__name__)

Receive = Callable[[Sequence[frames.Frame]], None]

_READ: Final = 2**16
_LONGEST_LINE: Final = 16 * 1024
_LAST_WORDS_SECONDS: Final = 0.5  # to read what a process wrote before it ended


class Hearer(Protocol):
    """Who hears what the process does. Called on the event loop; the last call is ``process_ended``."""

    def data_came(self, found: Sequence[frames.Frame]) -> None: ...
    def control_came(self, found: Sequence[frames.Frame]) -> None: ...
    def line_came(self, level: str, text: str) -> None: ...
    def protocol_broken(self, problem: str) -> None: ...
    def process_ended(self, how: str) -> None: ...


class ReplicaProcess:
    """One process, in a group of its own with all that it starts."""

    def __init__(self, model: Model, hearer: Hearer, guardian: Guardian, private: frozenset[str]) -> None:
        self.pid: int | None = None
        self._model = model
        self._hearer = hearer
        self._guardian = guardian
        self._private = private
        self._data: asyncio.WriteTransport | None = None
        self._control: asyncio.WriteTransport | None = None
        self._reading: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self, setup: bytes, visible_devices: str = "") -> None:
        """Start it and send what to run. It sees the GPU ``visible_devices`` only. Raises CallFailed."""
        try:
            await self._start(visible_devices)
        except (PenstockError, OSError) as error:
            self.kill()
            if self._watching is not None:
                await asyncio.wait([self._watching])
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise CallFailed("unavailable", f"its process cannot be started: {reason}") from error
        self.tell(frames.encode(frames.SETUP, 0, None, setup))

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send calls; nothing happens once the socket is closed."""
        if self._data is not None and not self._data.is_closing():
            if len(parts) == 1:
                self._data.write(parts[0])
            else:
                self._data.writelines(parts)

    def tell(self, frame: bytes) -> None:
        """Send a control frame, which no call holds up."""
        if self._control is not None and not self._control.is_closing():
            self._control.write(frame)

    def finish(self) -> None:
        """No more calls will come: the process unloads its model and ends."""
        if self._data is not None and not self._data.is_closing():
            self._data.close()

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # it has ended
                os.killpg(self.pid, signal.SIGKILL)

    async def _start(self, visible_devices: str) -> None:
        data, data_there = socket.socketpair()
        control, control_there = socket.socketpair()
        try:
            with data_there, control_there:
                process = await self._spawn(data_there.fileno(), control_there.fileno(), visible_devices)
            self._attend(process)
            await self._guardian.watch(process.pid)
            self._data = await self._connect(data, self._hearer.data_came)
            self._control = await self._connect(control, self._hearer.control_came)
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

    async def _spawn(self, data_fd: int, control_fd: int, visible_devices: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *environment.command(self._model, data_fd, control_fd),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment.variables(
                self._model, ours=environment.of_host(), private=self._private, visible_devices=visible_devices
            ),
            cwd=environment.working_folder(self._model),
            pass_fds=(data_fd, control_fd),
            start_new_session=True,
        )

    async def _connect(self, connection: socket.socket, receive: Receive) -> asyncio.WriteTransport:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        make = partial(_Channel, receive, self._hearer.protocol_broken)
        transport, _ = await loop.create_unix_connection(make, sock=connection)
        return transport

    async def _watch(self, process: Process) -> None:
        status = await process.wait()
        self.kill()  # what the process had started must not outlive it
        self._guardian.release(process.pid)
        await asyncio.wait(self._reading, timeout=_LAST_WORDS_SECONDS)
        for task in self._reading:
            task.cancel()
        for transport in (self._data, self._control):
            if transport is not None:
                transport.abort()
        self._hearer.process_ended(exits.described(status))

    async def _read_lines(self, stream: asyncio.StreamReader | None, level: str) -> None:
        """What the process writes past our own capture: native code, programs, last words."""
        rest = b""
        while stream is not None and (data := await stream.read(_READ)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._tell_line(line, level)
        self._tell_line(rest, level)

    def _tell_line(self, line: bytes, level: str) -> None:
        text = line[:_LONGEST_LINE].decode("utf-8", "replace").rstrip()
        if text:
            self._hearer.line_came(level, text)


class _Channel(asyncio.Protocol):
    """Our end of one socket; whatever the peer sends, an exception never leaves it."""

    def __init__(self, receive: Receive, broken: Callable[[str], None]) -> None:
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
        except Exception:  # a mistake of ours in one replica must not disturb the others
            self._failed = True
            log.exception("replica_frame_failed")
            self._broken("a frame could not be handled")
