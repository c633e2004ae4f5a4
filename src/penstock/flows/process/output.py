"""What the program writes: lines for the log, and stacks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from penstock.processes.waiting import set_within
from penstock.telemetry import logs

log = logs.get(__name__)

_READ_BYTES: Final = 2**16
_MAX_LINE_BYTES: Final = 16 * 1024
_MAX_STACK_BYTES: Final = 64 * 1024
_QUIET_SECONDS: Final = 0.05  # of silence, after which a stack is complete
_STACK_SECONDS: Final = 0.5  # for a stack that was requested


async def log_lines(stream: asyncio.StreamReader | None, level: str) -> None:
    """Log the lines of a stream until it ends."""
    rest = b""
    while stream is not None and (data := await stream.read(_READ_BYTES)):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        for line in lines:
            _log_line(line, level)
    _log_line(rest, level)


def _log_line(line: bytes, level: str) -> None:
    text = line[:_MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
    if text:
        getattr(log, level)("flow_output", line=text)


class Stacks:
    """Reads the stacks that a process writes when it gets a signal, innermost frame first, and keeps the last one."""

    def __init__(self, on_stack: Callable[[str], None]) -> None:
        self._on_stack = on_stack
        self._last = bytearray()
        self._read = asyncio.Event()
        self._quiet: asyncio.TimerHandle | None = None

    @property
    def last(self) -> str:
        """The last stack that was read; empty if there is none."""
        return self._last.decode("utf-8", "replace").strip()

    async def requested(self, request: Callable[[], None]) -> str:
        """Request a stack and return it, or the previous one if the process writes none in time."""
        self._read.clear()
        request()
        await set_within(self._read, _STACK_SECONDS)
        return self.last

    async def read(self, descriptor: int) -> None:
        """Read stacks from a pipe until it is closed."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        try:
            while data := await reader.read(_READ_BYTES):
                self._add(data)
        finally:
            transport.close()
            if self._quiet is not None:
                self._quiet.cancel()

    def _add(self, data: bytes) -> None:
        """Add a piece of a stack. Its end is not marked, so it is complete when nothing follows for a moment."""
        if self._quiet is None:
            self._last.clear()
        else:
            self._quiet.cancel()
        self._last += data[: _MAX_STACK_BYTES - len(self._last)]
        self._quiet = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._complete)

    def _complete(self) -> None:
        self._quiet = None
        self._read.set()
        self._on_stack(self.last)
