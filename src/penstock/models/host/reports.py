"""Handle what a replica reports about its calls: results, chunks, failures, progress and lines of the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from penstock.models.host import received
from penstock.models.host.arena import Arena
from penstock.models.host.calls import LiveCall
from penstock.models.host.in_flight import InFlight
from penstock.models.host.logbook import MAX_LINE, Logbook
from penstock.models.host.sessions import LiveSession
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Segment

_MAX_LAST_WORDS: Final = 300  # characters


class CallOwner(Protocol):
    """Decides what happens to calls that have ended. Called on the event loop."""

    def completed(self, call: LiveCall, json: bytes, segments: Sequence[Segment], micros: int) -> None: ...
    def failed(self, call: LiveCall, failure: frames.FailureHeader) -> None: ...
    def places_free(self) -> None:
        """Send other calls, because some have ended."""


class Reports:
    """Handles the frames on the data channel of one replica, and its other output. Frames that do not belong there
    raise ProtocolError."""

    def __init__(self, name: str, model: Model, in_flight: InFlight, owner: CallOwner, logbook: Logbook) -> None:
        self.arena: Arena | None = None  # of inputs; set by the replica
        self.files: Path | None = None  # the folder for files of its calls; set by the replica
        self.last_words = ""  # the newest line of output that bypassed our own capture
        self._name = name
        self._model = model
        self._in_flight = in_flight
        self._owner = owner
        self._logbook = logbook

    def receive(self, arrived: Sequence[frames.Frame]) -> None:
        returned = self._in_flight.returned
        try:
            self._handle(arrived)
        finally:
            if self._in_flight.returned != returned:
                self._owner.places_free()

    def line(self, level: str, text: str) -> None:
        """Log a line of output that bypassed our own capture."""
        self.last_words = text[:_MAX_LAST_WORDS]
        running = self._in_flight.running
        call = next(iter(running.values())) if len(running) == 1 else None  # with one call it is clear whose line it is
        self._log(level, text, call)

    def _handle(self, arrived: Sequence[frames.Frame]) -> None:
        for frame in arrived:
            kind = frame.kind
            if kind == frames.RESULT:
                json, segments, micros = received.output(frame, self.files)
                if json:
                    received.checked_json(json)
                self._owner.completed(self._finish(frame.id), json, segments, micros)
            elif kind == frames.CHUNK:
                self._chunk(frame)
            elif kind == frames.FAILURE:
                failure = received.failure(frame)
                self._owner.failed(self._finish(frame.id), failure)
            elif kind == frames.PROGRESS:
                self._progress(frame)
            elif kind == frames.TAKEN:
                self._taken(frame)
            elif kind == frames.LOG:
                self._log_frame(frame)
            else:
                raise frames.ProtocolError(f"kind {kind} on the data channel")

    def _finish(self, call_id: int) -> LiveCall:
        call = self._in_flight.finish(call_id, time.perf_counter())
        call.withdraw = None
        if call.arena is not None and self.arena is not None:
            for offset, length in call.arena:
                self.arena.free(offset, length)
            call.arena = None
        return call

    def _chunk(self, frame: frames.Frame) -> None:
        call = self._in_flight.find(frame.id)
        json, segments, _ = received.output(frame)
        size = frames.chunk_size(len(frame.body))
        if call.window and not frames.fits(call.window, call.unread, size):
            raise frames.ProtocolError("a chunk exceeds the window of its call")
        if not call.done.done():
            call.add_chunk(received.checked_json(json), segments, size)

    def _taken(self, frame: frames.Frame) -> None:
        session = self._in_flight.find(frame.id)
        if not isinstance(session, LiveSession):
            raise frames.ProtocolError("parts of a call that is not a session were taken")
        session.take(frames.credit_in(frame))

    def _progress(self, frame: frames.Frame) -> None:
        call = self._in_flight.find(frame.id)
        if len(frame.body) > frames.MAX_PROGRESS:
            raise frames.ProtocolError(f"progress of {len(frame.body)} bytes")
        if call.listener is not None and not call.done.done():
            call.listener.progress(received.checked_json(frame.body))

    def _log_frame(self, frame: frames.Frame) -> None:
        line = received.log_line(frame)
        self._log(line.level, line.message, self._in_flight.get(frame.id) if frame.id else None)

    def _log(self, level: str, message: str, call: LiveCall | None) -> None:
        request_id = None if call is None else call.request_id
        entry = self._logbook.add(
            level, message[:MAX_LINE], version=self._model.version, replica=self._name, request_id=request_id
        )
        if call is not None and call.listener is not None and not call.done.done():
            call.listener.log(entry.level, entry.message)
