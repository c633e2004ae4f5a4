"""One WebSocket (RFC 6455), on a connection that an HTTP request opened."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol

from penstock.processes.signal import Signal
from penstock.web.body import Disconnected
from penstock.web.body_space import BodySpace
from penstock.web.request import Request
from penstock.web.writer import Writer

_BUFFER_BYTES: Final = 256 * 1024  # received and not yet read; above this, reading the socket pauses
_FRAME_BYTES: Final = 64  # the approximate overhead of a frame beside its data
_CLOSE_SECONDS: Final = 5.0  # for the client's half of the closing handshake
_REASON_BYTES: Final = 123  # of a close frame (RFC 6455 §5.5)


class WebSocket:
    """Messages of one client. One task receives; several may send. ``closed`` is set when either side has closed it."""

    def __init__(
        self,
        request: Request,
        writer: Writer,
        *,
        space: BodySpace,
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self.request = request
        self._space = space  # for what is received beyond the usual buffer: large messages
        self._taken = 0  # bytes of it
        self._writer = writer
        self._pause = pause  # stop reading the socket
        self._resume = resume
        self._protocol = ServerProtocol(max_size=request.max_body_bytes)
        self._messages: deque[tuple[bytes | str, int]] = deque()  # with the bytes that they are counted as
        self._size = 0  # of the message that has begun
        self._fragments: list[bytes] = []
        self._text = False
        self._buffered = 0  # bytes
        self._closing = False  # no more messages are read
        self._changed = asyncio.Event()
        self.closed = Signal()
        self.close_seconds = _CLOSE_SECONDS
        self._protocol.receive_data(_head(request))
        (handshake,) = self._protocol.events_received()
        assert isinstance(handshake, Handshake)  # noqa: S101 - the first event of a server is the request
        response = self._protocol.accept(handshake)
        self._protocol.send_response(response)
        self._flush()

    @property
    def accepted(self) -> bool:
        """Whether the handshake was valid; if not, a plain response with the error was sent."""
        return self._protocol.state is State.OPEN

    # Called by the connection

    def receive_data(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._receive_frame(event)
        self._hold()
        responded = self._flush()
        if (self._buffered > _BUFFER_BYTES and self._messages) or (responded and self._writer.is_full):
            self._pause()
        if self._protocol.state is not State.OPEN:
            self._note_closed()

    def _hold(self) -> None:
        """Take space for what was received beyond the usual buffer, or fail; give back what is not needed."""
        needed = max(0, self._buffered + len(self._protocol.reader.buffer) - _BUFFER_BYTES)
        if self._protocol.state is not State.OPEN:
            needed = 0
        if needed > self._taken and not self._space.try_take(needed - self._taken):
            self._protocol.fail(CloseCode.TRY_AGAIN_LATER, "too many large messages are on their way")
            return
        if needed < self._taken:
            self._space.give_back(self._taken - needed)
        self._taken = needed

    def resume_if_roomy(self) -> None:
        """Read the socket again once there is room for what it brings."""
        if (self._buffered <= _BUFFER_BYTES // 2 or not self._messages) and not self._writer.is_full:
            self._resume()

    def receive_eof(self) -> None:
        if not self._protocol.eof_sent:
            self._protocol.receive_eof()
        self._note_closed()

    def notice_departure(self) -> None:
        """Wake the handler if it waits, because ``request.left`` was set."""
        self._note_closed()

    def _note_closed(self) -> None:
        self._hold()
        self._changed.set()
        self.closed.set()

    @property
    def was_cut(self) -> bool:
        """Whether the connection was lost although neither side had sent a close frame."""
        return self.closed.is_set() and self._protocol.close_rcvd is None and self._protocol.close_sent is None

    def _receive_frame(self, frame: Frame) -> None:
        if frame.opcode in {Opcode.TEXT, Opcode.BINARY}:
            self._text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return  # the protocol object responds to pings and confirms closes
        if self._closing:
            return
        data = bytes(frame.data)
        self._buffered += _FRAME_BYTES + len(data)
        self._size += _FRAME_BYTES + len(data)
        self._fragments.append(data)
        if not frame.fin:
            if len(self._fragments) * _FRAME_BYTES > _BUFFER_BYTES:
                self._protocol.fail(CloseCode.MESSAGE_TOO_BIG, "a message has too many fragments")
            return
        message = b"".join(self._fragments)
        self._fragments.clear()
        size, self._size = self._size, 0
        if self._text:
            try:
                self._messages.append((message.decode(), size))
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA, "text must be UTF-8")
        else:
            self._messages.append((message, size))
        self._changed.set()

    # The handler's side

    async def receive(self) -> bytes | str:
        """Return the next message; raises Disconnected when the socket was closed."""
        while not self._messages:
            if self._protocol.state is not State.OPEN or self.request.left.is_set():
                raise Disconnected
            self._changed.clear()
            await self._changed.wait()
        message, size = self._messages.popleft()
        self._buffered -= size
        self._hold()
        self.resume_if_roomy()
        return message

    async def send(self, message: bytes | str) -> None:
        """Send a message and wait until the client has room for more; raises Disconnected."""
        if isinstance(message, str):
            await self.send_text(message.encode())
            return
        if self._protocol.state is not State.OPEN:
            raise Disconnected
        self._protocol.send_binary(message)
        await self._send_queued()

    async def send_text(self, text: bytes) -> None:
        """Send a text in UTF-8 as ``send`` does."""
        if self._protocol.state is not State.OPEN:
            raise Disconnected
        self._protocol.send_text(text)
        await self._send_queued()

    async def _send_queued(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._writer.send(data)

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the socket and wait briefly for the client's confirmation. Messages that were not read are dropped."""
        self.begin_close(code, reason)
        try:
            async with asyncio.timeout(self.close_seconds):
                while self._unconfirmed and not self.request.left.is_set():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def begin_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame, whose reason is cut to the room that it has. A task that waits for a message gets
        Disconnected. When the handler returns, the connection waits for the client's confirmation.
        """
        self._closing = True
        self._messages.clear()
        self._fragments.clear()
        self._buffered = self._size = 0
        self._hold()
        self.resume_if_roomy()  # the confirmation may come behind messages that were held back
        self._send_close(code, reason)

    @property
    def _unconfirmed(self) -> bool:
        """Whether a close was sent and the client has not confirmed it. The server then closes the connection first."""
        return self._protocol.state is State.CLOSING and self._protocol.close_rcvd is None

    def go_away(self) -> None:
        """Begin to close because the process is stopping."""
        self._send_close(CloseCode.GOING_AWAY, "the service is stopping")

    def revoke(self) -> None:
        """Begin to close because the sender's key no longer allows this."""
        self._send_close(CloseCode.POLICY_VIOLATION, self.request.withdrawn)

    def _send_close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
            self._flush()
        self._note_closed()

    def _flush(self) -> bool:
        """Send what the protocol object has queued; return whether there was anything."""
        waiting = [data for data in self._protocol.data_to_send() if data]
        for data in waiting:
            self._writer.write(data)
        return bool(waiting)


def _head(request: Request) -> bytes:
    """Serialize the head of the request again, so that the protocol object can check it."""
    target = request.url_path.encode() + (b"?" + request.query_string if request.query_string else b"")
    lines = [b"%b: %b\r\n" % header for header in request.headers.items()]
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, b"".join(lines))
