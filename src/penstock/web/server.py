"""An HTTP/1.1 server for one application: bounds its connections, and stops without breaking off responses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from penstock.telemetry import logs
from penstock.web.connection import Application, Connection
from penstock.web.connections import Connections
from penstock.web.limits import Limits
from penstock.web.signals import Signal

log = logs.get(__name__)

_CHECK_SECONDS: Final = 1.0
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
        self._check: asyncio.TimerHandle | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on listening sockets, which the server closes when it stops."""
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            if self._check is None:
                self._schedule(loop)
            return Connection(self._application, self.connections, self.stopping, loop)

        for one in sockets:
            _bound_unsent(one)
            self._listeners.append(await loop.create_server(connect, sock=one, backlog=2048))

    async def stop(self, grace: timedelta) -> None:
        """Accept nothing more, let responses finish for ``grace``, then cut what remains. Idempotent."""
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
            log.warning("connections_cut", count=len(self.connections.open))
        tasks = [connection.task for connection in self._open() if connection.task is not None]
        for connection in self._open():
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._check is not None:
            self._check.cancel()
            self._check = None

    @property
    def in_progress(self) -> list[str]:
        """The paths of the requests that are being served."""
        return [one.request.url_path for one in self._open() if one.request is not None]

    def _open(self) -> list[Connection]:
        return [one for one in self.connections.open if isinstance(one, Connection)]

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        limits = self.connections.limits
        shortest = min(
            limits.head_timeout,
            limits.idle_timeout,
            limits.body_window,
            limits.stall_timeout,
            limits.linger,
            limits.ping,
        )
        self._check = loop.call_later(min(_CHECK_SECONDS, shortest.total_seconds() / 2), self._check_all, loop)

    def _check_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Enforce limits on time; there is no timer per connection, and none without connections."""
        now = loop.time()
        for connection in self._open():
            connection.check(now)
        self._check = None
        if self.connections.open:
            self._schedule(loop)


def _bound_unsent(listener: socket.socket) -> None:
    """Have the kernel hold little beyond what is on its way, so that back-pressure reaches the producer early.

    Accepted sockets inherit the option.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listener.family in {socket.AF_INET, socket.AF_INET6}:
        listener.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
