"""A wire that collects what a runtime sends, for tests of runtimes without a replica around them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.runtime import Call, Output, Segment

_numbers = itertools.count(1)


class CollectingWire:
    """Keeps everything that calls send, in order."""

    def __init__(self, folder: Path | None = None) -> None:
        self.files = CallFiles("" if folder is None else str(folder))
        self.chunks: list[Output] = []
        self.progressed: list[Any] = []
        self.lines: list[tuple[str, str]] = []  # level, message

    def chunk(self, call: Call, output: Output) -> None:
        self.chunks.append(output)

    def progress(self, call: Call, value: bytes) -> None:
        self.progressed.append(msgspec.json.decode(value))

    def log(self, call: Call | None, level: str, message: str) -> None:
        self.lines.append((level, message))

    @property
    def values(self) -> list[Any]:
        """The chunks' JSON."""
        return [msgspec.json.decode(chunk.json) for chunk in self.chunks]


def call_with(wire: CollectingWire, value: Any, *segments: Segment, streams: bool = False, window: int = 0) -> Call:
    """Return a call with this input."""
    return Call(
        next(_numbers),
        msgspec.json.encode(value),
        segments,
        request_id="request-1",
        streams=streams,
        wire=wire,
        window=window,
    )


def read(output: Output | None) -> Any:
    """Return an output's JSON, decoded."""
    assert output is not None
    return msgspec.json.decode(output.json)


def data_of(segments: Sequence[Segment]) -> list[bytes]:
    return [bytes(segment.in_memory()) for segment in segments]
