"""A replica's end of the sockets: what calls send, and what the control thread receives."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from penstock.models.replica import frames
from penstock.models.replica.errors import plain
from penstock.models.replica.runtime import Call, Output, Segment

_MAX_LINE = 16 * 1024  # characters of a log line

_decode_call = msgspec.msgpack.Decoder(frames.CallHeader).decode


class Sender(Protocol):
    """Writes bytes to the host, from any thread."""

    def __call__(self, parts: Sequence[bytes | memoryview]) -> None: ...


class ReplicaWire:
    """Turns what a call reports into frames."""

    def __init__(self, send: Sender, arena: memoryview | None = None) -> None:
        self.arena = arena  # of inputs, shared with the host
        self._send = send

    def chunk(self, call: Call, output: Output) -> None:
        self._send(_reply(frames.CHUNK, call.id, output, 0))

    def progress(self, call: Call, value: bytes) -> None:
        self._send([frames.encode(frames.PROGRESS, call.id, None, value)])

    def log(self, call: Call | None, level: str, message: str) -> None:
        message = plain(message)
        line = frames.LogHeader(level, message if len(message) <= _MAX_LINE else message[:_MAX_LINE] + "…")
        self._send([frames.encode(frames.LOG, 0 if call is None else call.id, line)])


def result(call_id: int, output: Output | None, micros: int) -> list[bytes | memoryview]:
    """Return the frame that ends a call well; without an output, its chunks were all."""
    if output is None:
        return [frames.encode(frames.RESULT, call_id, frames.OutputHeader(micros))]
    return _reply(frames.RESULT, call_id, output, micros)


def call_of(frame: frames.Frame, wire: ReplicaWire) -> Call:
    """Return the call of a frame; raises ProtocolError."""
    try:
        header = _decode_call(frame.header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise frames.ProtocolError(f"a header cannot be read: {error}") from None
    if not header.segments:
        return Call(
            frame.id,
            frame.body,
            (),
            request_id=header.request_id,
            streams=header.streams,
            wire=wire,
            window=header.window,
        )
    json, pieces = frames.split(frame.body, header.segments, wire.arena)
    segments = [
        Segment(piece, stated.media_type, tuple(stated.path), stated.name)
        for piece, stated in zip(pieces, header.segments, strict=True)
    ]
    return Call(
        frame.id,
        json,
        segments,
        request_id=header.request_id,
        streams=header.streams,
        wire=wire,
        window=header.window,
    )


def _reply(kind: int, call_id: int, output: Output, micros: int) -> list[bytes | memoryview]:
    if not output.segments:
        return [frames.encode(kind, call_id, frames.OutputHeader(micros), output.json)]
    headers = [
        frames.SegmentHeader(len(segment.data), segment.media_type, list(segment.path), segment.name)
        for segment in output.segments
    ]
    parts = [output.json, *(segment.data for segment in output.segments)]
    return frames.encode_parts(kind, call_id, frames.OutputHeader(micros, headers), parts)


class Control:
    """The second socket: cancels, pauses and pings, which never queue behind data. A thread of its own."""

    def __init__(self, connection: socket.socket, on_call: Callable[[frames.Frame], None]) -> None:
        self._connection = connection
        self.on_call = on_call
        self.on_ping: Callable[[], None] = self.pong
        self._lock = threading.Lock()
        self._decoder = frames.Decoder()

    def first(self) -> frames.Frame:
        """Wait for the host's first frame. Raises EOFError when there is none."""
        while True:
            data = self._connection.recv(2**16)
            if not data:
                raise EOFError
            found = self._decoder.feed(data)
            if found:
                return found[0]

    def send(self, frame: bytes) -> None:
        with self._lock:
            self._connection.sendall(frame)

    def pong(self) -> None:
        """Respond to a ping."""
        with suppress(OSError):  # the host has gone
            self.send(frames.encode(frames.PONG))

    def ready(self) -> None:
        """Start the thread, which ends with the connection, and report that calls may come.

        Loaded objects stay alive, so they are frozen: garbage collections need not examine them again.
        """
        gc.freeze()
        self._listen()
        self.send(frames.encode(frames.READY))

    def _listen(self) -> None:
        threading.Thread(target=self._run, name="penstock-control", daemon=True).start()

    def _run(self) -> None:
        try:
            while data := self._connection.recv(2**16):
                for frame in self._decoder.feed(data):
                    if frame.kind == frames.PING:
                        self.on_ping()
                    else:
                        self.on_call(frame)
        except OSError:
            pass  # the host has gone; the data socket ends the process
