"""Parse what a replica sends. It is not trusted: anything that breaks the protocol raises ProtocolError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.models.host import call_folders
from penstock.models.replica import frames
from penstock.models.replica.runtime import Schema, Segment

_output_header = frames.header_decoder(frames.OutputHeader)
_failure_header = frames.header_decoder(frames.FailureHeader)
_log_header = frames.header_decoder(frames.LogHeader)
_any_json = msgspec.json.Decoder(msgspec.Raw)


def output(frame: frames.Frame, files: Path | None = None) -> tuple[bytes, Sequence[Segment], int]:
    """Return the JSON and the segments of a result or chunk, and the microseconds that the model took.

    ``files`` is the folder in which the replica hands files over, which only results may do.
    """
    header: frames.OutputHeader = frames.decode_header(_output_header, frame.header)
    if not header.segments:
        return frame.body, (), header.micros
    json, pieces = frames.split(frame.body, header.segments)  # no arena: outputs come through the socket
    segments = [
        Segment(
            call_folders.taken(files, stated.file or "") if piece is None else piece,
            stated.media_type,
            tuple(stated.path),
            stated.name,
        )
        for piece, stated in zip(pieces, header.segments, strict=True)
    ]
    return json, segments, header.micros


def failure(frame: frames.Frame) -> frames.FailureHeader:
    """Return why a call or a load failed."""
    header: frames.FailureHeader = frames.decode_header(_failure_header, frame.header)
    return header


def log_line(frame: frames.Frame) -> frames.LogHeader:
    """Return a line of the model's log."""
    header: frames.LogHeader = frames.decode_header(_log_header, frame.header)
    return header


def checked_json(body: bytes) -> bytes:
    """Return ``body``, which must be JSON."""
    try:
        _any_json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise frames.ProtocolError("a value is not JSON") from None
    return body


def schema(body: bytes) -> Schema:
    """Return the schema of the model."""
    try:
        return msgspec.json.decode(body, type=Schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise frames.ProtocolError(f"the schema cannot be read: {error}") from None
