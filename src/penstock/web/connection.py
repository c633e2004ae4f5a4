"""One client connection: its requests are read one at a time and responded to in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final

from penstock.processes.signal import Signal
from penstock.telemetry import logs
from penstock.web import encoding, metrics, problems
from penstock.web.body import Disconnected
from penstock.web.connections import Connections, Tracked
from penstock.web.departures import has_left
from penstock.web.head import Head
from penstock.web.inflow import Inflow
from penstock.web.problems import Refused
from penstock.web.request import Request
from penstock.web.response import AnyResponse, EventStream, Response, Upgrade
from penstock.web.streams import send_bytes, send_events
from penstock.web.websocket import WebSocket
from penstock.web.writer import Writer

log = logs.get(__name__)

Application = Callable[[Request], Awaitable[AnyResponse]]

_REFUSED: Final = metrics.series("any", "refused")
_JOINED_BYTES: Final = 64 * 1024  # smaller bodies are copied behind their head, so that both are sent in one piece
_PING: Final = b": ping\n\n"


class Phase(Enum):
    """The event that a connection waits for."""

    IDLE = "idle"  # the first byte of a request
    HEAD = "head"  # the end of a head that has begun
    ACTIVE = "active"  # the handler of the current request, or the rest of its body
    DROPPING = "dropping"  # the rest of a body after the response to its request was sent
    LINGERING = "lingering"  # the client to close its side, after the last response
    UPGRADED = "upgraded"  # the end of a WebSocket
    CLOSED = "closed"


class Connection(Tracked, asyncio.Protocol):
    """One connection of a server."""

    __slots__ = (
        "_application",
        "_close",
        "_connections",
        "_dropped",
        "_eof",
        "_inflow",
        "_limits",
        "_loop",
        "_pings",
        "_stopping",
        "_task",
        "_version_1_1",
        "_websocket",
        "left",
        "phase",
        "request",
        "writer",
    )

    def __init__(
        self,
        application: Application,
        connections: Connections,
        stopping: Signal,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop.time())
        self._application = application
        self._connections = connections
        self._stopping = stopping
        self._loop = loop
        self._limits = connections.limits
        self.left = Signal()
        self.phase = Phase.IDLE
        self.writer = Writer(loop, self.since)
        self._inflow = Inflow(self._limits, loop, self.writer)
        self._eof = False  # the client has closed its side
        self._dropped = 0  # bytes that came after the last response
        self._task: asyncio.Task[None] | None = None
        self.request: Request | None = None  # the one that the task serves
        self._close = False  # whether to close after the current response
        self._version_1_1 = True
        self._pings = False  # an event stream is being sent
        self._websocket: WebSocket | None = None

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = self.writer.transport = self._inflow.transport = transport
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else ""
        high = self._limits.write_buffer_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase is Phase.IDLE and not self._inflow.buffer:
            self._receive_head(data)
        elif phase is Phase.IDLE or phase is Phase.HEAD:
            self._inflow.buffer.add(data)
            self._receive_head()
        elif phase is Phase.ACTIVE or phase is Phase.DROPPING:
            self._receive_more(data)
        elif phase is Phase.UPGRADED and self._websocket is not None:
            self._websocket.receive_data(data)
        elif phase is Phase.LINGERING:
            self._dropped += len(data)
            if self._dropped > self._limits.linger_bytes:
                self.transport.abort()

    def eof_received(self) -> bool:
        """Keep the connection of a client that closed its side after a request, but end what waits for more data."""
        if self.phase is Phase.ACTIVE:
            self._eof = True
            self._inflow.fail_body(Disconnected())
            self.left.set()
            return True
        if self._websocket is not None:
            self._websocket.receive_eof()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self.phase = Phase.CLOSED
        self._connections.closed(self)
        self._inflow.buffer.clear()
        self.writer.release()
        self._inflow.fail_body(Disconnected())
        if self._websocket is not None:
            self._websocket.receive_eof()
        self.left.set()

    def pause_writing(self) -> None:
        self.writer.fill()
        self._connections.stalled(self)

    def resume_writing(self) -> None:
        self._connections.flowing(self)
        self.writer.release()
        if self._websocket is not None:
            self._websocket.resume_if_roomy()

    # Reading

    def _receive_head(self, arrived: bytes = b"") -> None:
        """Begin the next request if its head is whole; otherwise wait for more."""
        try:
            found = self._inflow.buffer.take_head(arrived)
            if found is not None:
                self._begin(*found)
                return
        except Refused as refused:
            self._refuse(refused)
            return
        if self._inflow.buffer and self.phase is not Phase.HEAD:
            self.phase, self.since = Phase.HEAD, self._loop.time()

    def _begin(self, head: Head, rest: bytes) -> None:
        """Hand a request to the application while the rest of its body may still come."""
        body = self._inflow.begin_body(head, rest)
        self.phase = Phase.ACTIVE
        path, _, query = head.target.partition(b"?")
        self.request = request = Request(
            method=head.method,
            url_path=path.decode("ascii", "replace"),
            query_string=query,
            headers=head.headers,
            body=body,
            client=self.client,
            left=self.left,
            stopping=self._stopping,
            body_space=self._connections.body_space,
        )
        self._close = not head.keep_alive
        self._version_1_1 = head.version_1_1
        self._task = self._loop.create_task(self._serve(request))

    def _receive_more(self, data: bytes) -> None:
        """Take bytes that arrive while a request is in progress."""
        self._inflow.receive(data)
        if self.phase is not Phase.DROPPING:
            self._inflow.bound()
        elif self._inflow.incoming is None:
            self._next()

    # Responding

    async def _serve(self, request: Request) -> None:
        """Respond to one request."""
        try:
            response = await self._application(request)
            if isinstance(response, Response):
                self._send(request, response)
            else:
                await self._stream(request, response)
        except Disconnected:
            self.transport.close()
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        except Exception:  # the application responds to its own errors; any other one closes the connection
            log.exception("response_failed", path=request.url_path[:200])
            self.transport.abort()
        finally:
            self._task = self.request = None
            if request.held_bytes:
                request.release_body()
        self._finish()

    def _send(self, request: Request, response: Response) -> None:
        head = encoding.response_head(response, close=self._closes())
        body = response.body
        if not body or request.method == "HEAD":
            self.writer.write(head)
        elif len(body) <= _JOINED_BYTES:
            self.writer.write(head + body)
        else:
            self.writer.write(head)
            self.writer.write(body)

    async def _stream(self, request: Request, response: AnyResponse) -> None:
        if isinstance(response, EventStream):
            self._pings = True
            try:
                await send_events(self.writer, request, response, chunked=self._version_1_1, close=self._closes())
            finally:
                self._pings = False
        elif isinstance(response, Upgrade):
            await self._upgrade(request, response)
        elif not isinstance(response, Response):
            await send_bytes(self.writer, request, response, close=self._closes())

    async def _upgrade(self, request: Request, upgrade: Upgrade) -> None:
        """Speak WebSocket on this connection until ``run`` returns."""
        self._close = True
        self._websocket = websocket = WebSocket(
            request,
            self.writer,
            space=self._connections.body_space,
            pause=self._inflow.pause,
            resume=self._inflow.resume,
        )
        if not websocket.accepted:
            return
        self.phase = Phase.UPGRADED
        self._inflow.resume()
        if self._inflow.buffer:
            websocket.receive_data(self._inflow.buffer.clear())
        try:
            with self._stopping.calling(websocket.go_away):
                await upgrade.run(websocket)
        finally:
            await websocket.close()

    def _closes(self) -> bool:
        """Whether the current response is the last one of this connection."""
        if self._inflow.incoming is not None and not self._inflow.incoming.rest_is_small:
            self._close = True
        if self._connections.draining or (self._eof and not self._inflow.buffer):
            self._close = True
        return self._close

    def _finish(self) -> None:
        """Continue after a response was handed to the socket."""
        if self.phase is Phase.CLOSED or self.transport.is_closing():
            return
        if self._close or self._connections.draining:
            self._hang_up()
        elif self._inflow.incoming is not None:
            self.phase = Phase.DROPPING
            self._inflow.incoming.dropped = True
            self._inflow.resume()
        elif self.writer.is_full:  # the next request waits until the client takes this response
            self._task = self._loop.create_task(self._next_when_taken())
        else:
            self._next()

    async def _next_when_taken(self) -> None:
        try:
            await self.writer.room()
        except Disconnected:
            return
        finally:
            self._task = None
        self._next()

    def _next(self) -> None:
        """Wait for the next request, or begin it if it has already arrived."""
        if self.phase is Phase.CLOSED or self.transport.is_closing():
            return
        if self._connections.draining:
            self._hang_up()
            return
        self.phase, self.since = Phase.IDLE, self._loop.time()
        if self._inflow.buffer:
            self._receive_head()
        if self._eof and self._task is None:
            self._hang_up()
        elif len(self._inflow.buffer) <= self._limits.head_bytes:  # else the requests that wait come first
            self._inflow.resume()

    def _refuse(self, refused: Refused) -> None:
        """Respond to a request that no handler will see, and close."""
        response = problems.refusal(refused)
        _REFUSED.count(refused.status)
        self.writer.write(encoding.response_head(response, close=True) + response.body)
        self._hang_up(more_comes=True)

    def _hang_up(self, *, more_comes: bool = False) -> None:
        """Close, but first read what the client still sends: closing with unread input could lose the response."""
        self._close = True
        if self._eof or not (more_comes or self._inflow.incoming is not None or self._inflow.buffer):
            self.transport.close()
            return
        self._inflow.incoming = None
        self._inflow.buffer.clear()
        self.phase, self.since = Phase.LINGERING, self._loop.time()
        self._inflow.resume()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # Called by the server, and by ``Connections`` to enforce the bounds

    @property
    def is_idle(self) -> bool:
        return self.phase is Phase.IDLE or self.phase is Phase.HEAD or self.phase is Phase.LINGERING

    def drain(self) -> None:
        """Close now if no request is in progress; otherwise after its response."""
        if self.phase is Phase.IDLE or self.phase is Phase.HEAD:
            self.transport.close()
        elif self.phase is Phase.DROPPING:
            self._hang_up()

    def abort(self) -> None:
        self.transport.abort()
        if self._task is not None:
            self._task.cancel()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were received and have been neither parsed nor read by a handler."""
        return self._inflow.waiting_bytes

    @property
    def reads(self) -> bool:
        """Whether the socket is being read."""
        return not self._inflow.paused

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The handler of the current request."""
        return self._task

    def _notice_departure(self) -> None:
        """Set ``left`` for a client that closed its side while its socket was not read. Unread bytes stay readable."""
        self.left.set()
        if self._websocket is not None:
            self._websocket.notice_departure()

    def check(self, now: float) -> None:
        """Enforce the limits on time. The server calls this about every second."""
        limits = self._limits
        if self.writer.is_too_slow(now, rate=limits.drain_rate, window=limits.drain_window):
            log.info("slow_reader_cut", client=self.client, waiting_bytes=self.writer.unsent())
            self.abort()
            return
        if self._inflow.paused and not self.left.is_set() and has_left(self.transport):
            self._notice_departure()
        waited = now - self.since
        if self.phase is Phase.IDLE:
            limit = limits.idle_timeout if self.writer.written else limits.head_timeout
            if waited > limit.total_seconds():
                self.transport.close()
        elif self.phase is Phase.HEAD:
            if waited > limits.head_timeout.total_seconds():
                seconds = limits.head_timeout.total_seconds()
                self._refuse(Refused(408, f"the head of a request must arrive within {seconds:g} seconds"))
        elif self.phase is Phase.LINGERING:
            if waited > limits.linger.total_seconds():
                self.transport.abort()
        elif self._inflow.incoming is not None and not self._inflow.paused:
            self._inflow.incoming.check_rate(now)
            if self._inflow.incoming.broken and self.phase is Phase.DROPPING:
                self._hang_up()
        writer = self.writer
        if self._pings and now - writer.sent_at >= limits.ping.total_seconds() and not writer.is_full:
            writer.sent_at = now
            writer.write(encoding.chunk(_PING) if self._version_1_1 else _PING)
