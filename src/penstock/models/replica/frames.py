"""The frames that a host and its replicas exchange over a stream socket: the codec, and what the headers hold.

A frame is a prefix of 17 bytes, a header in msgpack and a body of raw bytes::

    u32 length of header and body | u8 kind | u64 id | u32 length of the header | header | body

all little-endian. ``id`` names the call that a frame is about; 0 where it is about none. Media travel as *segments* in
the body behind the JSON, with their sizes in the header, so nothing is ever encoded as text on the way.

Used on both sides, even in interpreters that have only msgspec: imports stay within that and the standard library.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from penstock.failures import Category

PREFIX: Final = struct.Struct("<IBQI")
_SIZE: Final = struct.Struct("<I")
LARGEST: Final = 512 * 2**20  # bytes of one frame
MAX_PROGRESS: Final = 2**16  # bytes of a progress value

# Host to replica, data. At the end of this stream the replica unloads the model and exits.
CALL: Final = 1  # header CallHeader; body: JSON input, then segments
BATCH: Final = 2  # header BatchHeader: how many of the next calls belong together
PART: Final = 3  # header PartHeader; body: JSON, then segments. The next part of the session `id`.
END: Final = 4  # no more parts of the session `id` come
# Host to replica, control
SETUP: Final = 16  # body: what to run, in JSON
CANCEL: Final = 17  # the caller of `id` has left; of a session on the data channel too, where it may wait for a part
CREDIT: Final = 18  # body: u32, bytes of chunks that `id` may send again
PING: Final = 20
FLUSH: Final = 21  # send results that were kept to be sent with later ones
# Replica to host, data
RESULT: Final = 32  # header OutputHeader; body: JSON output, then segments. Ends the call.
CHUNK: Final = 33  # header OutputHeader; body as above
FAILURE: Final = 34  # header FailureHeader. Ends the call.
PROGRESS: Final = 35  # body: JSON
LOG: Final = 36  # header LogHeader; `id` is 0 outside of calls
TAKEN: Final = 37  # body: u32, bytes of parts that the model has taken, so that as many may be sent again
# Replica to host, control
HELLO: Final = 48  # body: the model's schema, in JSON
READY: Final = 49  # loaded; calls may come
PONG: Final = 50
BROKEN: Final = 51  # header FailureHeader: it cannot be described or loaded

KINDS: Final = frozenset(
    {*range(CALL, END + 1), SETUP, CANCEL, CREDIT, PING, FLUSH, *range(RESULT, TAKEN + 1), *range(HELLO, BROKEN + 1)}
)


class ProtocolError(Exception):
    """The peer sent something that is not a frame, or a frame that does not belong here."""


class SegmentHeader(Struct, frozen=True, array_like=True):
    """A piece of media in a frame's body."""

    size: int  # bytes
    media_type: str
    path: list[str | int] = []  # its place in the JSON, which holds null there; empty: it is the whole value
    name: str | None = None  # a file name
    offset: int = -1  # where it is in the memory that host and replica share; -1: in the body. Of inputs only.
    file: str | None = None  # its bytes are in a file: the path of an input's, the name of one that was handed over


class CallHeader(Struct, frozen=True, array_like=True):
    """The header of a call, beside its input."""

    request_id: str = ""
    streams: bool = False  # the caller reads chunks as they come
    segments: list[SegmentHeader] = []
    window: int = 0  # bytes of chunks that may be on their way to the caller; 0: no limit
    part_window: int = 0  # of a session: bytes of parts that may be on their way to the model; 0: it is not a session


class PartHeader(Struct, frozen=True, array_like=True):
    """The header of a part, beside its JSON; a part without segments has none."""

    segments: list[SegmentHeader] = []


class Setup(Struct, frozen=True, kw_only=True):
    """The model that a replica runs."""

    runtime: str
    name: str
    version: str
    folder: str
    options: dict[str, Any]
    schema: Any  # as the manifest states it
    device: str
    concurrency: int
    timeout: float  # seconds
    reach: list[str] | None = None  # see Spec
    arena_bytes: int = 0  # of shared memory for inputs; 0: none
    files: str = ""  # the replica's folder for files of calls, which it creates; empty: none
    describe_only: bool = False  # report the model's schema, and exit


class BatchHeader(Struct, frozen=True, array_like=True):
    count: int


class OutputHeader(Struct, frozen=True, array_like=True):
    """The header of a result or chunk, beside its JSON."""

    micros: int = 0  # of a result: microseconds in the model
    segments: list[SegmentHeader] = []


class FailureHeader(Struct, frozen=True, array_like=True):
    """The reason why a call, or a load, ended without a result."""

    category: Category
    message: str
    field: str | None = None
    retry_after: float | None = None  # seconds
    code: int | None = None  # the engine's own, of up to 64 bits


class LogHeader(Struct, frozen=True, array_like=True):
    """One line of a model's log."""

    level: str  # "debug", "info", "warning", "error"
    message: str


class Frame(NamedTuple):
    """A received frame."""

    kind: int
    id: int
    header: bytes
    body: bytes


_header = msgspec.msgpack.Encoder()
_EMPTY: Final = b""


def encode(kind: int, id: int = 0, header: Struct | None = None, body: bytes = _EMPTY) -> bytes:  # noqa: A002
    """Return one frame as bytes."""
    head = _EMPTY if header is None else _header.encode(header)
    return PREFIX.pack(len(head) + len(body), kind, id, len(head)) + head + body


def encode_parts(
    kind: int,
    id: int,  # noqa: A002
    header: Struct | None,
    parts: Sequence[bytes | memoryview],
) -> list[bytes | memoryview]:
    """Return one frame as pieces to write one after the other, so that large segments are not copied."""
    head = _EMPTY if header is None else _header.encode(header)
    size = len(head) + sum(len(part) for part in parts)
    if size > LARGEST:
        raise ProtocolError(f"a frame of {size} bytes exceeds the {LARGEST} allowed")
    return [PREFIX.pack(size, kind, id, len(head)) + head, *parts]


def chunk_size(body: int) -> int:
    """Return the bytes that a chunk or part uses of its window, by the length of its body plus an overhead."""
    return body + 64


def fits(window: int, unread: int, size: int) -> bool:
    """Whether a chunk or part of ``size`` bytes may be sent while ``unread`` bytes are on their way. One that is larger
    than the window passes when at most half of it is taken, which is when the peer returns credit at the latest."""
    return unread + size <= window or unread <= window // 2


def credit(id: int, size: int) -> bytes:  # noqa: A002
    """Return the frame that lets a call send ``size`` more bytes of chunks."""
    return encode(CREDIT, id, None, _SIZE.pack(size))


def taken(id: int, size: int) -> bytes:  # noqa: A002
    """Return the frame that reports ``size`` bytes of parts as taken."""
    return encode(TAKEN, id, None, _SIZE.pack(size))


def credit_in(frame: Frame) -> int:
    """Return the bytes that a frame grants or reports as taken; raises ProtocolError."""
    if len(frame.body) != _SIZE.size:
        raise ProtocolError(f"a credit of {len(frame.body)} bytes")
    return int(_SIZE.unpack(frame.body)[0])


class Decoder:
    """Splits a stream of bytes into frames; raises ProtocolError at the first prefix that is not valid."""

    def __init__(self, *, largest: int = LARGEST) -> None:
        self._largest = largest
        self._pending = bytearray()
        self._needed = 0  # bytes until the frame at the start of `_pending` is whole

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes, in order."""
        pending = self._pending
        if pending:
            pending += data
            if len(pending) < self._needed:
                return []
            data = bytes(pending)
            pending.clear()
        frames, rest = self._cut(data)
        if rest < len(data):
            pending += memoryview(data)[rest:]
        return frames

    def _cut(self, data: bytes) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        start, size = 0, len(data)
        self._needed = 0
        while size - start >= 17:
            length, kind, call_id, head = PREFIX.unpack_from(data, start)
            if kind not in KINDS or length > self._largest or head > length:
                raise ProtocolError(f"not a frame: kind {kind}, {length} bytes, of them {head} header")
            begin = start + 17
            end = begin + length
            if end > size:
                self._needed = end - start
                break
            middle = begin + head
            frames.append(Frame(kind, call_id, data[begin:middle], data[middle:end]))
            start = end
        return frames, start

    @property
    def idle(self) -> bool:
        """Whether no part of a frame is waiting for the rest."""
        return not self._pending


def split(
    body: bytes, segments: Sequence[SegmentHeader], arena: memoryview | None = None
) -> tuple[bytes, list[memoryview | None]]:
    """Return a body's JSON and its segments, of which some may be in ``arena``; None for those in files. Raises
    ProtocolError when the sizes do not fit."""
    if not segments:
        return body, []
    if any(segment.size < 0 for segment in segments):
        raise ProtocolError("a segment has a negative size")
    total = sum(segment.size for segment in segments if segment.offset < 0 and segment.file is None)
    if total > len(body):
        raise ProtocolError("segments exceed the frame")
    view = memoryview(body)
    start = len(body) - total
    json = bytes(view[:start])
    pieces: list[memoryview | None] = []
    for segment in segments:
        if segment.file is not None:
            pieces.append(None)
        elif segment.offset < 0:
            pieces.append(view[start : start + segment.size])
            start += segment.size
        elif arena is not None and segment.offset + segment.size <= len(arena):
            pieces.append(arena[segment.offset : segment.offset + segment.size])
        else:
            raise ProtocolError("a segment is not in the shared memory")
    return json, pieces


def header_decoder(kind: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder for headers of that type; see ``decode_header``."""
    return msgspec.msgpack.Decoder(kind)


def decode_header(decoder: msgspec.msgpack.Decoder[Any], header: bytes) -> Any:
    """Return a frame's header as a typed value; raises ProtocolError."""
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a header cannot be read: {error}") from None
