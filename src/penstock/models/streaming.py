"""A call's chunks, progress and log lines as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from penstock.errors import PenstockError, ServiceError
from penstock.models.answers import with_media
from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.replica.runtime import Segment
from penstock.processes.waiting import set_within

_HOLD_AT: Final = 2048  # events that the caller may be behind before its model is held back


class EventFeed:
    """A listener that turns what a call tells into events; a caller who reads slowly slows the model down."""

    def __init__(self, *, logs: bool) -> None:
        self.call: LiveCall | None = None
        self._logs = logs
        self._waiting: list[bytes] = []
        self._news = asyncio.Event()
        self._held = False

    # penstock.models.host.calls.Listener

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self._add(b"event: chunk\ndata: " + _one_line(with_media(json, segments)) + b"\n\n")

    def progress(self, json: bytes) -> None:
        self._add(b"event: progress\ndata: " + _one_line(json) + b"\n\n")

    def log(self, level: str, message: str) -> None:
        if self._logs:
            self._add(event("log", {"level": level, "message": message}))

    def _add(self, text: bytes) -> None:
        waiting = self._waiting
        waiting.append(text)
        if len(waiting) == 1:
            self._news.set()
        elif len(waiting) > _HOLD_AT and not self._held:
            self._hold(True)

    def _hold(self, hold: bool) -> None:
        call = self.call
        if call is not None and call.replica is not None and not call.done.done():
            self._held = hold
            call.replica.hold_back(call, hold=hold)

    async def begun(self, seconds: float) -> None:
        """Wait until there is something to send or the call has ended, for so long at most. Raises what ended it badly
        before anything was told: then a plain error can still be answered."""
        call = self._attached()
        call.done.add_done_callback(lambda _: self._news.set())
        if not await set_within(self._news, seconds):
            return
        if call.done.done() and not self._waiting:
            call.done.result()

    async def events(self, problem: Any) -> AsyncIterator[bytes]:
        """All events, many at a time when they come quickly; the last is ``done`` or ``error``.

        ``problem`` describes an error as the rest of the API does.
        """
        call = self._attached()
        call.done.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._waiting:
                    text = b"".join(self._waiting)
                    self._waiting.clear()
                    if self._held:
                        self._hold(False)
                    yield text
                if call.done.done() and not self._waiting:
                    break
            yield self._last(call, problem)
        finally:
            call.abandon()

    def _last(self, call: LiveCall, problem: Any) -> bytes:
        if call.done.cancelled():
            return event("error", problem(ServiceError("the call was cancelled")))
        error = call.done.exception()
        if error is not None:
            return event("error", problem(error if isinstance(error, PenstockError) else ServiceError()))
        return done(call.done.result(), chunks=call.chunk_count)

    def _attached(self) -> LiveCall:
        assert self.call is not None  # noqa: S101 - whoever made the feed gave it its call
        return self.call


def done(answered: CallResult, *, chunks: int) -> bytes:
    """The last event of a call that went well: with its output where that did not come as chunks."""
    facts = msgspec.json.encode(
        {"chunks": chunks, "version": answered.version, "model_seconds": round(answered.model_seconds, 6)}
    )
    if answered.json == b"null" and not answered.segments and chunks:
        return b"event: done\ndata: " + facts + b"\n\n"
    output = _one_line(with_media(answered.json, answered.segments))
    return b'event: done\ndata: {"output":' + output + b"," + facts[1:] + b"\n\n"


def event(name: str, data: Any) -> bytes:
    """One event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _one_line(json: bytes) -> bytes:
    """JSON without line breaks, which can only be space between its tokens."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\n", b" ").replace(b"\r", b" ")
    return json
