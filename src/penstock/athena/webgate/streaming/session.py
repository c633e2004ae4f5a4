"""One session: a call of a model whose parts come in messages, and whose chunks leave in messages."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from penstock.athena.protocol import codes
from penstock.athena.protocol.addressing import for_service
from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.requests import RequestMessage
from penstock.athena.sessions.failures import explained
from penstock.athena.sessions.forms import Form
from penstock.athena.sessions.input import SessionInput, mark
from penstock.athena.sessions.output import SessionOutput
from penstock.athena.sound import audio_us
from penstock.athena.webgate.streaming.alarm import Alarm
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.reading import MessageReader
from penstock.athena.webgate.streaming.talk import Talk
from penstock.errors import Overloaded, PenstockError, ServiceError
from penstock.models.host.calls import LiveCall
from penstock.models.host.sessions import LiveSession, SessionOver
from penstock.models.http.metering import Stated
from penstock.models.replica.runtime import Segment
from penstock.telemetry import logs
from penstock.web.body import Disconnected

log = logs.get(__name__)

TIME_OUT: Final = "time out"
_IDLE: Final = codes.as_outcome(codes.SESSION_TIMEOUT, TIME_OUT)
_OVERHEAD: Final = 1024  # bytes of memory that a waiting message takes beside its content
_TOO_LONG: Final = codes.as_outcome(codes.SESSION_TIMEOUT, "session timeout")


class Link(ABC):
    """The connection to the client of a session."""

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send a message and wait until the client has room for more; raises Disconnected."""

    @abstractmethod
    def ended(self, session: Session, reason: str) -> None:
        """Note that a session has sent its last message; ``reason`` says why if it has failed."""


class Session:
    """A listener to a call, and the task that sends its results.

    ``run`` sends results as soon as the engine has made them, and ends with the call, a failure, or ``abandon``. The
    session takes messages until then. It outlives its connection if its client may retry, for ``close_wait``.
    """

    def __init__(
        self,
        talk: Talk,
        form: Form,
        link: Link,
        *,
        reader: MessageReader,
        data: SessionInput,
        limits: StreamLimits,
        retries: bool,
    ) -> None:
        self.talk = talk
        self.retries = retries
        self.held: AsyncExitStack | None = None  # what is held until the session has ended: its quotas
        self.stated = Stated()  # what is recorded of the call beside what its model reports
        self._reader = reader
        self._data = data
        self._form = form
        self._link: Link | None = link  # None while there is no connection
        self._last_link: Link | None = link  # also after it was cut; None once the session has sent its last message
        self._limits = limits
        self._output = SessionOutput(form.expected)
        self._call: LiveCall | None = None
        self._chunks: list[tuple[bytes, Sequence[Segment]]] = []
        self._news = asyncio.Event()  # a chunk, the end of the call, a failure, or another link
        self._failure: Outcome | None = None
        self._whole = False  # the first message was the last
        self._left = False
        self._fields: dict[str, str] = {}  # of inputs, as messages name them
        self._waiting: deque[tuple[RequestMessage, bool, int]] = deque()  # with whether it is the last, and its bytes
        self._waiting_bytes = 0
        self._passing: asyncio.Task[None] | None = None
        self._idle = Alarm(limits.read_timeout, lambda: self.fail(_IDLE))
        self._life = Alarm(limits.session_timeout, lambda: self.fail(_TOO_LONG))
        self._cut = Alarm(limits.close_wait, self.abandon)

    # penstock.models.host.calls.Listener

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self._chunks.append((json, segments))
        self._news.set()

    def progress(self, json: bytes) -> None:
        """Report nothing: the protocol has no message for progress."""

    def log(self, level: str, message: str) -> None:
        """Report nothing: the protocol has no message for lines of the log."""

    # The side of the client

    def begin(self, call: LiveCall, first: CallInput) -> None:
        """Note the call that has begun with the first input."""
        self._call = call
        self._whole = self._data.ended
        self._fields.update(first.fields)
        call.done.add_done_callback(lambda _: self._news.set())
        self._life.touch()
        self._wait_for_client()

    async def take(self, given: dict[str, Any]) -> None:
        """Take one of the next messages, and wait until the engine has room for its data.

        Raises UnexpectedFrame, InvalidInput and TooLarge. Nothing happens once the session has ended.
        """
        message = self._reader.later(given)
        last = mark(message, self._data)
        self._idle.rest()  # the client cannot send while the engine has no room
        await self._pass_on(message, last=last)
        self._wait_for_client()

    def queue(self, given: dict[str, Any], *, size: int) -> None:
        """Take one of the next messages, sent as ``size`` bytes, and pass it on when the engine has room for its data.

        Raises UnexpectedFrame, InvalidInput, and Overloaded when too many bytes wait.
        """
        size += _OVERHEAD
        if self._waiting_bytes and self._waiting_bytes + size > self._limits.backlog_bytes:
            raise Overloaded(f"the engine takes data too slowly: {self._waiting_bytes} bytes wait for it")
        message = self._reader.later(given)
        self._waiting.append((message, mark(message, self._data), size))
        self._waiting_bytes += size
        if self._passing is None:
            self._passing = asyncio.get_running_loop().create_task(self._pass_on_waiting())
        self._wait_for_client()

    async def _pass_on_waiting(self) -> None:
        try:
            while self._waiting and not self.over:
                message, last, size = self._waiting.popleft()
                await self._pass_on(message, last=last)
                self._waiting_bytes -= size
        except PenstockError as error:
            self.fail(codes.of_error(error))
        except Exception:  # a mistake in Penstock; its details appear only in the log
            log.exception("athena_session_failed", sid=self.talk.sid)
            self.fail(codes.of_error(ServiceError()))
        finally:
            self._passing = None

    async def _pass_on(self, message: RequestMessage, *, last: bool) -> None:
        if message.payload and not self.over:
            self.stated.audio_us += audio_us(message.payload.values())
            await self.pass_on(self._form.part(for_service(message, self._form.service)), last=last)
        elif last:
            self.finish_input()

    async def pass_on(self, part: CallInput, *, last: bool) -> None:
        """Send a part to the engine when it has room; raises TooLarge."""
        assert isinstance(self._call, LiveSession)  # noqa: S101 - the only message of a call makes no parts
        self._fields.update(part.fields)
        try:
            await self._call.send(part.json, part.segments)
        except SessionOver:  # it ended meanwhile
            return
        self.stated.bytes_in += len(part.json) + sum(len(segment.data) for segment in part.segments)
        if last:
            self._call.finish()

    def finish_input(self) -> None:
        """Note that no part follows."""
        if isinstance(self._call, LiveSession):
            self._call.finish()

    def _wait_for_client(self) -> None:
        if self._data.ended or self.over:
            self._idle.rest()
        else:
            self._idle.touch()

    def fail(self, outcome: Outcome) -> None:
        """End the session with an error; its call ends at once."""
        if not self.over:
            self._failure = outcome
            self._news.set()
            self._running.close()

    def abandon(self) -> None:
        """End the session without a message, because its client has left; its call ends at once."""
        self._left = True
        self._news.set()
        if self._call is not None:
            self._call.close()

    def detach(self) -> None:
        """Continue without a connection until the client retries, for ``close_wait``."""
        self._link = None
        self._idle.rest()
        self._cut.touch()

    def attach(self, link: Link) -> None:
        """Continue on the connection of a retry. Numbered data that the client sends again is left out."""
        before, self._last_link, self._link = self._last_link, link, link
        self._cut.rest()
        self._data.resume()
        self._wait_for_client()
        self._news.set()
        if before is not None:
            before.ended(self, "the session continues on another connection")

    @property
    def over(self) -> bool:
        """Whether the call has ended, so that no more messages are taken."""
        return self._left or self._failure is not None or (self._call is not None and self._call.done.done())

    @property
    def silent(self) -> bool:
        """Whether the session has sent its last message, so that it needs no connection."""
        return self._last_link is None

    # The side of the engine

    async def run(self) -> None:
        """Send the results, and the end."""
        try:
            if not self._whole:
                await self._send(self.talk.accepted())
            while not self._output.ended and await self._more():
                await self._send_chunks()
            await self._end()
        except Disconnected:  # it was abandoned
            pass
        except PenstockError as error:  # the engine's output cannot be read
            await self._end_with(codes.of_error(error))
        except Exception:  # a mistake in Penstock; its details appear only in the log
            log.exception("athena_session_failed", sid=self.talk.sid)
            await self._end_with(codes.of_error(ServiceError()))
        finally:
            await self._close()

    async def _more(self) -> bool:
        """Wait for chunks; return False at the end of the call, or of the session."""
        while not self._chunks and not self.over:
            self._news.clear()
            await self._news.wait()
        return bool(self._chunks) and self._failure is None and not self._left

    async def _send_chunks(self) -> None:
        """Send the chunks that wait, and return their bytes to the window of the call."""
        chunks, size = self._chunks, self._running.unread
        self._chunks = []
        while chunks and not self._output.ended:
            await self._send_results(*chunks.pop(0), last=False)
        self._chunks[:0] = chunks  # after the end
        self._running.consume(size)

    async def _send_results(self, json: bytes, segments: Sequence[Segment], *, last: bool) -> None:
        found = self._form.results(json, segments)
        statuses = {one.name: status for one, status in found}
        marks = self._output.end(statuses) if last else self._output.chunk(statuses)
        if marks is not None:
            results = [one for one, _ in found]
            self._reader.complete(results)
            await self._send(self.talk.success(marks, results))

    async def _end(self) -> None:
        """Send the last message, unless it has been sent."""
        done = self._running.done
        if self._left:
            return
        if self._failure is not None:
            await self._end_with(self._failure)
        elif self._output.ended:  # with a chunk
            self._let_go("")
            await self._outlast()
        elif done.cancelled():
            await self._end_with(codes.of_error(ServiceError()))
        elif (error := done.exception()) is not None:
            await self._end_with(codes.of_error(explained(error, self._fields)))
        else:
            await self._send_results(done.result().json, done.result().segments, last=True)
            self._let_go("")

    async def _outlast(self) -> None:
        """Give the engine ``close_wait`` to end its call after its last result, so that it counts as completed."""
        self.finish_input()
        done = self._running.done
        await asyncio.wait([done], timeout=self._limits.close_wait.total_seconds())
        if self._chunks or not done.done():
            log.warning("athena_output_after_end", sid=self.talk.sid, chunks=len(self._chunks))

    async def _end_with(self, outcome: Outcome) -> None:
        """Send an error and end. Codes that are ignored, and the silence of a single client, are not sent."""
        if outcome.code not in self._limits.ignored_codes and not (outcome is _IDLE and not self.talk.cid):
            try:
                await self._send(self.talk.error(outcome))
            except Disconnected:
                return
        self._let_go(outcome.message)

    async def _send(self, message: bytes) -> None:
        """Send a message, after a cut once the client has retried. Raises Disconnected if it does not."""
        while not self._left:
            link = self._link
            if link is None:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                await link.send(message)
            except Disconnected:
                if self._link is not link:  # it was replaced meanwhile, or the cut was noticed
                    continue
                if not self.retries:
                    break
                self.detach()
            else:
                return
        raise Disconnected

    def _let_go(self, reason: str) -> None:
        link, self._last_link, self._link = self._last_link, None, None
        if link is not None:
            link.ended(self, reason)

    async def _close(self) -> None:
        self._let_go("")
        self._left = True
        for alarm in (self._idle, self._life, self._cut):
            alarm.stop()
        self._running.close()
        if self.held is not None:
            await self.held.aclose()

    @property
    def _running(self) -> LiveCall:
        assert self._call is not None  # noqa: S101 - it has begun
        return self._call
