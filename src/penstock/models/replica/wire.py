"""A replica's end of the sockets: what calls send, and what the control thread receives."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.errors import plain
from penstock.models.replica.file_bytes import INLINE_BYTES, MAX_WHOLE_BYTES, FileBytes
from penstock.models.replica.runtime import Call, Output, Segment
from penstock.models.replica.sessions import Part, Session

_MAX_LINE = 16 * 1024  # characters of a log line

_decode_call = msgspec.msgpack.Decoder(frames.CallHeader).decode
_part_header = frames.header_decoder(frames.PartHeader)


class Sender(Protocol):
    """Writes bytes to the host, from any thread."""

    def __call__(self, parts: Sequence[bytes | memoryview]) -> None: ...


class ReplicaWire:
    """Turns what a call reports into frames."""

    def __init__(self, send: Sender, files: CallFiles, arena: memoryview | None = None) -> None:
        self.files = files
        self.arena = arena  # of inputs, shared with the host
        self._send = send

    def chunk(self, call: Call, output: Output) -> None:
        self._send(_reply(frames.CHUNK, call.id, output, 0, None))

    def taken(self, session: Session, size: int) -> None:
        self._send([frames.taken(session.id, size)])

    def progress(self, call: Call, value: bytes) -> None:
        self._send([frames.encode(frames.PROGRESS, call.id, None, value)])

    def log(self, call: Call | None, level: str, message: str) -> None:
        message = plain(message)
        line = frames.LogHeader(level, message if len(message) <= _MAX_LINE else message[:_MAX_LINE] + "…")
        self._send([frames.encode(frames.LOG, 0 if call is None else call.id, line)])


def result(call_id: int, output: Output | None, micros: int, files: CallFiles) -> list[bytes | memoryview]:
    """Return the frame that ends a call well; without an output, its chunks were all. Raises OSError for a file of the
    output that cannot be handed over."""
    if output is None:
        return [frames.encode(frames.RESULT, call_id, frames.OutputHeader(micros))]
    return _reply(frames.RESULT, call_id, output, micros, files)


def call_of(frame: frames.Frame, wire: ReplicaWire) -> Call:
    """Return the call of a frame; raises ProtocolError."""
    try:
        header = _decode_call(frame.header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise frames.ProtocolError(f"a header cannot be read: {error}") from None
    if header.part_window:
        return _session(frame, header, wire)
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
    json, segments = _parted(frame.body, header.segments, wire.arena)
    return Call(
        frame.id,
        json,
        segments,
        request_id=header.request_id,
        streams=header.streams,
        wire=wire,
        window=header.window,
    )


def part_of(frame: frames.Frame) -> Part:
    """Return the part of a frame; raises ProtocolError."""
    if not frame.header:
        return Part(frame.body)
    header: frames.PartHeader = frames.decode_header(_part_header, frame.header)
    return Part(*_parted(frame.body, header.segments, None))


def _session(frame: frames.Frame, header: frames.CallHeader, wire: ReplicaWire) -> Session:
    json, segments = _parted(frame.body, header.segments, wire.arena)
    return Session(
        frame.id,
        json,
        segments,
        request_id=header.request_id,
        streams=header.streams,
        wire=wire,
        window=header.window,
        part_window=header.part_window,
    )


def _parted(
    body: bytes, stated: Sequence[frames.SegmentHeader], arena: memoryview | None
) -> tuple[bytes, list[Segment]]:
    """Return a body's JSON and its segments; raises ProtocolError."""
    json, pieces = frames.split(body, stated, arena)
    segments = [
        Segment(
            FileBytes(one.file or "", one.size) if piece is None else piece,
            one.media_type,
            tuple(one.path),
            one.name,
        )
        for piece, one in zip(pieces, stated, strict=True)
    ]
    return json, segments


def _reply(kind: int, call_id: int, output: Output, micros: int, files: CallFiles | None) -> list[bytes | memoryview]:
    if not output.segments:
        return [frames.encode(kind, call_id, frames.OutputHeader(micros), output.json)]
    headers: list[frames.SegmentHeader] = []
    parts: list[bytes | memoryview] = [output.json]
    for segment in output.segments:
        data, file = segment.data, None
        if isinstance(data, FileBytes) and data.size > INLINE_BYTES and files is not None:
            file = files.hand_over(data)
        else:
            data = data if not isinstance(data, FileBytes) else _read(data)
            parts.append(data)
        headers.append(frames.SegmentHeader(len(data), segment.media_type, list(segment.path), segment.name, file=file))
    return frames.encode_parts(kind, call_id, frames.OutputHeader(micros, headers), parts)


def _read(file: FileBytes) -> bytes:
    if file.size > MAX_WHOLE_BYTES:
        detail = f"a chunk holds a file of {file.size} bytes; at most {MAX_WHOLE_BYTES} are possible: return it instead"
        raise CallFailed(Category.INTERNAL, detail)
    return file.whole()


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
