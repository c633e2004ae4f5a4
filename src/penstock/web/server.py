"""An HTTP/1.1 server for one application, with bounded connections and a stop that lets responses finish."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from penstock.processes.signal import Signal
from penstock.telemetry import logs
from penstock.web.connection import Application, Connection
from penstock.web.connections import Connections
from penstock.web.limits import Limits

log = logs.get(__name__)

_UNSENT_BYTES: Final = 128 * 1024


class Server:
    """Serves an application. Responses that wait for something end early when ``stopping`` is set."""

    def __init__(
        self, application: Application, *, limits: Limits | None = None, stopping: Signal | None = None
    ) -> None:
        self.connections = Connections(limits or Limits())
        self.stopping = stopping or Signal()
        self._application = application
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on listening sockets, which the server closes when it stops."""
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(self._application, self.connections, self.stopping, loop)

        for one in sockets:
            _bound_unsent(one)
            self._listeners.append(await loop.create_server(connect, sock=one, backlog=2048))

    async def stop(self, grace: timedelta) -> None:
        """Stop accepting connections, let responses finish for ``grace``, then close what remains. Idempotent."""
        self.stopping.set()
        self.connections.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in self._open():
            connection.drain()
        try:
            async with asyncio.timeout(grace.total_seconds()):
                while self.connections.open:
                    self.connections.none_left.clear()
                    await self.connections.none_left.wait()
        except TimeoutError:
            cut = self.in_progress
            if cut:
                log.warning("responses_cut", count=len(cut))
        tasks = [connection.task for connection in self._open() if connection.task is not None]
        for connection in self._open():
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def in_progress(self) -> list[str]:
        """The paths of the requests that are being served."""
        return [one.request.url_path for one in self._open() if one.request is not None]

    @property
    def waiting_bytes(self) -> int:
        """Bytes of requests that were received and wait for a handler."""
        return sum(one.waiting_bytes for one in self._open())

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that clients have not received."""
        return sum(one.writer.unsent() for one in self._open())

    @property
    def held_back(self) -> int:
        """The number of connections that are not read because they sent more than their handlers have read."""
        return sum(not one.reads for one in self._open())

    def _open(self) -> list[Connection]:
        return [one for one in self.connections.open if isinstance(one, Connection)]


def _bound_unsent(listener: socket.socket) -> None:
    """Limit what the kernel buffers before sending, so that back-pressure reaches the producer early.

    Accepted sockets inherit the option.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listener.family in {socket.AF_INET, socket.AF_INET6}:
        listener.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
