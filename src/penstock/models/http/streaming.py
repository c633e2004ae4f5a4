"""Send a call's chunks, progress and log lines as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from penstock.errors import PenstockError, ServiceError
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment

_MAX_NOTES_BYTES: Final = 2**18  # progress and log lines of one call that wait to be sent


class EventFeed:
    """A listener that turns the reports of a call into events, and an iterator that returns the events.

    While the client reads slowly, the model waits before it sends more chunks, only the newest progress is kept,
    and log lines are left out. ``problem`` describes an error as the rest of the API does, and ``keep`` stores the
    files of the result.
    """

    def __init__(
        self,
        *,
        logs: bool,
        problem: Callable[[PenstockError], Any],
        keep: Callable[[CallResult], Awaitable[CallResult]],
    ) -> None:
        self.call: LiveCall | None = None
        self._problem = problem
        self._keep = keep
        self._logs = logs
        self._waiting: list[bytes] = []
        self._news = asyncio.Event()
        self._notes_bytes = 0  # of progress and log lines in `_waiting`
        self._newest_progress = b""  # the newest progress, if there was no space for it
        self._left_out = 0  # log lines that were left out
        self._sent = 0  # bytes of chunks that were returned last
        self._ended = False

    # penstock.models.host.calls.Listener

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self._add(b"event: chunk\ndata: " + _one_line(inlined(json, segments)) + b"\n\n")

    def progress(self, json: bytes) -> None:
        text = b"event: progress\ndata: " + _one_line(json) + b"\n\n"
        if self._has_space(text):
            self._add(text)
        else:
            self._newest_progress = text

    def log(self, level: str, message: str) -> None:
        if not self._logs:
            return
        text = event("log", {"level": level, "message": message})
        if self._has_space(text):
            self._add(text)
        else:
            self._left_out += 1

    def _has_space(self, note: bytes) -> bool:
        if self._notes_bytes + len(note) > _MAX_NOTES_BYTES:
            return False
        self._notes_bytes += len(note)
        return True

    def _add(self, text: bytes) -> None:
        self._waiting.append(text)
        self._news.set()

    def _take(self) -> bytes:
        if self._newest_progress:
            self._waiting.append(self._newest_progress)
        if self._left_out:
            note = f"{self._left_out} lines were left out: they came faster than they were read"
            self._waiting.append(event("log", {"level": "warning", "message": note}))
        text = b"".join(self._waiting)
        self._waiting.clear()
        self._notes_bytes = self._left_out = 0
        self._newest_progress = b""
        return text

    async def begun(self, seconds: float) -> bytes:
        """Wait, with a time limit, until there is something to send or the call has ended; return the events so far.

        Raises the error that ended the call before anything was sent: then a plain error response is still possible.
        """
        call = self._attached()
        call.done.add_done_callback(lambda _: self._news.set())
        if not self._waiting:
            timer = asyncio.get_running_loop().call_later(seconds, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()
            if not self._waiting and call.done.done():
                call.done.result()
        self._sent = call.unread
        return self._take()

    def __aiter__(self) -> EventFeed:
        return self

    async def __anext__(self) -> bytes:
        """Return the next events, many together when they come quickly; the last is ``done`` or ``error``.

        A request for the next events shows that the previous ones were sent, and returns their bytes to the window.
        """
        call = self._attached()
        call.consume(self._sent)
        self._sent = 0
        if self._ended:
            raise StopAsyncIteration
        while not self._waiting and not call.done.done():
            await self._news.wait()
            self._news.clear()
        if self._waiting:
            self._sent = call.unread
            return self._take()
        self._ended = True
        return await self._last(call)

    async def aclose(self) -> None:
        """Close the call, even if no events have been requested."""
        self._attached().close()

    async def _last(self, call: LiveCall) -> bytes:
        if call.done.cancelled():
            return event("error", self._problem(ServiceError("the call was cancelled")))
        error = call.done.exception()
        if error is not None:
            return event("error", self._problem(error if isinstance(error, PenstockError) else ServiceError()))
        try:
            return done(await self._keep(call.done.result()), chunks=call.chunk_count)
        except PenstockError as problem:
            return event("error", self._problem(problem))

    def _attached(self) -> LiveCall:
        assert self.call is not None  # noqa: S101 - the route has attached it
        return self.call


def done(result: CallResult, *, chunks: int) -> bytes:
    """Return the last event of a successful call, with the output if that was not sent as chunks."""
    facts = msgspec.json.encode(
        {"chunks": chunks, "version": result.version, "model_seconds": round(result.model_seconds, 6)}
    )
    if result.json == b"null" and not result.segments and chunks:
        return b"event: done\ndata: " + facts + b"\n\n"
    output = _one_line(inlined(result.json, result.segments))
    return b'event: done\ndata: {"output":' + output + b"," + facts[1:] + b"\n\n"


def event(name: str, data: Any) -> bytes:
    """Return one event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _one_line(json: bytes) -> bytes:
    """Return JSON without line breaks, which can only stand between its tokens."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json
