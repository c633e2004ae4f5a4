"""A session over RPCs: its messages become parts of a call, and its chunks wait until the client polls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

from penstock.athena.atom.exchange import Released
from penstock.athena.atom.order import Order
from penstock.athena.atom.parts import EngineBusy, PartQueue
from penstock.athena.protocol.addressing import for_service
from penstock.athena.protocol.data import Scalar, Status
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.forms.ruled import JsonForm
from penstock.athena.protocol.requests import RequestMessage
from penstock.athena.protocol.responses import ResponseMessage
from penstock.athena.protocol.schemas.rules import Rules
from penstock.athena.sessions.failures import explained
from penstock.athena.sessions.forms import Form
from penstock.athena.sessions.input import SessionInput, mark
from penstock.athena.sessions.output import SessionOutput
from penstock.athena.sound import audio_us
from penstock.errors import InvalidInput, Unauthorized
from penstock.models.host.calls import LiveCall
from penstock.models.host.sessions import LiveSession
from penstock.models.http.metering import Stated
from penstock.models.replica.runtime import Segment
from penstock.web.request import Request

_CLOSE_WAIT: Final = 5.0  # seconds for an engine to end by itself after its last result


class StreamExchange:
    """A listener to the call of a session, which keeps its chunks within the window of the call."""

    once = False

    def __init__(
        self,
        form: Form,
        request: Request,
        rules: Rules,
        *,
        documented: bool,
        data: SessionInput,
        first: int,
        header: Mapping[str, Scalar],
    ) -> None:
        self.header = header
        self._documented = documented  # the rules are about the messages of sessions too
        self._rules = rules
        self.held = AsyncExitStack()  # what is held until the session has ended: its quotas
        self._form = form
        self.request = request  # of the first message
        self.stated = Stated()  # what is recorded of the call beside what its model reports
        self._data = data
        self._first = first  # the number that the form of the first message states
        self._order: Order[RequestMessage] = Order(0)
        self._output = SessionOutput(form.expected)
        self._call: LiveCall | None = None
        self._fields: dict[str, str] = {}  # of inputs, as messages name them
        self._chunks: deque[tuple[bytes, Sequence[Segment], int]] = deque()  # with the bytes of its frame
        self._counted = 0  # bytes of the chunks that wait
        self._news = asyncio.Event()  # a chunk, or the end of the call
        self._parts: PartQueue | None = None  # None: the call is not a session
        self._closed = False

    @property
    def over(self) -> bool:
        return self._closed

    # penstock.models.host.calls.Listener

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        size = 0 if self._call is None else self._call.unread - self._counted
        self._counted += size
        self._chunks.append((json, segments, size))
        self._news.set()

    def progress(self, json: bytes) -> None:
        """Report nothing: the protocol has no message for progress."""

    def log(self, level: str, message: str) -> None:
        """Report nothing: the protocol has no message for lines of the log."""

    # The side of the client

    async def begin(self, call: LiveCall, first: CallInput, part: CallInput | None, *, last: bool) -> None:
        """Note the call that has begun with the first input, and send the first part, if there is one."""
        self._call = call
        self._fields.update(first.fields)
        call.done.add_done_callback(self._end)
        self.held.enter_context(self.request.while_allowed(call.close))
        if not isinstance(call, LiveSession):
            return
        self._parts = PartQueue(call, self.stated)
        if part is not None:
            self._put(part)
        if last:
            self._parts.put(None)
        await self._parts.sent()  # the window of a call that has just begun is free

    async def take(self, request: RpcRequest, seq: int, *, size: int, seconds: float | None) -> None:
        taken = False
        try:
            async with asyncio.timeout(seconds):
                if self._parts is not None:
                    await self._parts.room(size)
                self._take(request, seq, size)
                taken = True
                if self._parts is not None:
                    await self._parts.sent()
        except TimeoutError:
            if not taken:
                raise EngineBusy("the engine has not taken earlier messages yet: send this one again") from None

    def _take(self, request: RpcRequest, seq: int, size: int) -> None:
        for stated in self._order.put(self._number(request, seq), request.message, size):
            one = JsonForm(stated).ruled(self._rules.later) if self._documented else stated
            last = mark(one, self._data)
            if one.payload and not self._running.done.done():
                self.stated.audio_us += audio_us(one.payload.values())
                self._put(self._form.part(for_service(one, self._form.service)))
            if last and self._parts is not None:
                self._parts.put(None)

    def _put(self, part: CallInput) -> None:
        assert self._parts is not None  # noqa: S101 - the only message of a call makes no parts
        self._fields.update(part.fields)
        self._parts.put(part)

    def _number(self, request: RpcRequest, seq: int) -> int:
        """Return the place of a message in its session. Clients number messages in their form, by SeqNo, or both; one
        without either is the next."""
        number = request.number - self._first
        if number < 0:
            raise InvalidInput.of("sync_id", f"must be at least {self._first}, that of the session's first message")
        if number:
            return number
        return seq - 1 if seq else self._order.next

    async def poll(self, seconds: float) -> ResponseMessage:
        await self._wait(seconds)
        if self._chunks and not self._output.ended:
            json, segments, size = self._chunks.popleft()
            self._counted -= size
            self._running.consume(size)
            return await self._response(json, segments, last=False)
        done = self._running.done
        if not done.done():
            return ResponseMessage(status=Status.BEGIN)
        if self._output.ended:  # another poll has returned the last result
            return ResponseMessage(status=Status.END)
        if self.request.withdrawn:
            raise Unauthorized(self.request.withdrawn)
        if self._parts is not None and self._parts.failure is not None:
            raise self._parts.failure
        if done.cancelled():
            raise Released("the session was ended by its client, or because the server stops")
        error = done.exception()
        if error is not None:
            raise explained(error, self._fields)
        return await self._response(done.result().json, done.result().segments, last=True)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._parts is not None:
            await self._parts.close()
        if self._call is not None:
            if self._output.ended:
                await self._outlast()
            self._call.close()
        await self.held.aclose()

    async def _wait(self, seconds: float) -> None:
        """Wait for a chunk or the end of the call."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._chunks and not self._running.done.done():
                    self._news.clear()
                    await self._news.wait()

    async def _response(self, json: bytes, segments: Sequence[Segment], *, last: bool) -> ResponseMessage:
        found = self._form.results(json, segments)
        statuses = {one.name: status for one, status in found}
        marks = self._output.end(statuses) if last else self._output.chunk(statuses)
        if marks is None:
            return ResponseMessage(status=Status.END)
        self._rules.cast([one for one, _ in found])
        return ResponseMessage(status=marks.status, payload=marks.applied([one for one, _ in found]))

    async def _outlast(self) -> None:
        """Let the engine end by itself after its last result, so that its call counts as completed."""
        if isinstance(self._call, LiveSession):
            self._call.finish()
        await asyncio.wait([self._running.done], timeout=_CLOSE_WAIT)

    def _end(self, _done: object) -> None:
        self._news.set()

    @property
    def _running(self) -> LiveCall:
        assert self._call is not None  # noqa: S101 - it has begun
        return self._call
