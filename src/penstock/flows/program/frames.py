"""The frames between the service and the program that runs flow code: a length of four bytes, then JSON."""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from penstock.flows.kernel.records import FlowDescription, History, Mail, Turn
from penstock.flows.kernel.replay import Replayed

MAX_FRAME_BYTES: Final = 192 * 2**20
LENGTH_BYTES: Final = 4


class TooLarge(Exception):
    """A frame exceeds MAX_FRAME_BYTES."""


class Begin(Struct, frozen=True, tag="begin"):
    """Replay a run and consume the mail."""

    request: int
    history: History
    mail: list[Mail]
    now: float = 0.0  # seconds since 1970, by the clock of the database


class Deliver(Struct, frozen=True, tag="deliver"):
    """Consume mail in a run that is resident."""

    request: int
    run_id: UUID
    mail: list[Mail]
    now: float = 0.0  # as above


class Evict(Struct, frozen=True, tag="evict"):
    """Forget a resident run, if it is resident."""

    request: int
    run_id: UUID


class Check(Struct, frozen=True, tag="check"):
    """Replay a history, and each of its beginnings, with the current code. Nothing is executed."""

    request: int
    history: History
    ended: bool  # with its last turn


Request = Begin | Deliver | Evict | Check


class Loading(Struct, frozen=True, tag="loading"):
    """The program begins to load a file. If it hangs or dies before the next report, this file is the reason."""

    file: str


class Ready(Struct, frozen=True, tag="ready"):
    """The program has loaded all files."""

    flows: list[FlowDescription]
    problems: dict[str, str]  # by file


class Turned(Struct, frozen=True, tag="turned"):
    """The turn that resulted from a request."""

    request: int
    turn: Turn


class Checked(Struct, frozen=True, tag="checked"):
    """The result of a check."""

    request: int
    replayed: Replayed


class Refused(Struct, frozen=True, tag="refused"):
    """A request cannot be executed; the run is not resident."""

    request: int
    code: str  # "unknown_flow", "not_resident" or "internal"
    message: str


class Evicted(Struct, frozen=True, tag="evicted"):
    """A run was forgotten."""

    request: int


class OffCpu(Struct, frozen=True, tag="off_cpu"):
    """The turn of a request waits for async side effects; other requests are executed meanwhile."""

    request: int


Report = Loading | Ready | Turned | Checked | Refused | Evicted | OffCpu
F = TypeVar("F")

_encoder: Final = msgspec.json.Encoder()


def encode(frame: Request | Report) -> bytes:
    """Return a frame as bytes. Raises TooLarge."""
    buffer = bytearray(LENGTH_BYTES)
    _encoder.encode_into(frame, buffer, LENGTH_BYTES)
    size = len(buffer) - LENGTH_BYTES
    if size > MAX_FRAME_BYTES:
        raise TooLarge(f"a frame takes {size} bytes, but at most {MAX_FRAME_BYTES} are allowed")
    buffer[:LENGTH_BYTES] = size.to_bytes(LENGTH_BYTES)
    return bytes(buffer)


_REQUEST: Final = re.compile(rb'\{"type":"\w+","request":(\d{1,18})\b')


def unreadable(payload: bytes, error: Exception) -> Refused | None:
    """Return the refusal of a request that cannot be read, such as one with a value that is nested too deeply; None if
    even its number cannot."""
    found = _REQUEST.match(payload)
    return None if found is None else Refused(int(found[1]), "internal", f"the request cannot be read: {error}")


class Decoder(Generic[F]):
    """Cuts bytes into frames of one kind."""

    def __init__(self, kind: type[F]) -> None:
        self.decode = msgspec.json.Decoder(kind).decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[F]:
        """Return the frames that are complete. Raises TooLarge, and what ``decode`` raises."""
        return [self.decode(payload) for payload in self.payloads(data)]

    def payloads(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete, not decoded yet. Raises TooLarge."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            size = int.from_bytes(buffer[at : at + LENGTH_BYTES])
            if size > MAX_FRAME_BYTES:
                raise TooLarge(f"a frame announces {size} bytes, but at most {MAX_FRAME_BYTES} are allowed")
            end = at + LENGTH_BYTES + size
            if len(buffer) < end:
                break
            found.append(bytes(buffer[at + LENGTH_BYTES : end]))
            at = end
        del buffer[:at]
        return found
