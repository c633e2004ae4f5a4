"""Encode what is sent to a replica: the description of its model at the start, and calls."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.models.host.arena import MIN_BYTES, Arena
from penstock.models.host.calls import LiveCall
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment


def setup(model: Model, *, device: str, arena: Arena | None, files: str, describe_only: bool) -> bytes:
    """Return what a replica needs to know of its model, as JSON."""
    return msgspec.json.encode(
        frames.Setup(
            runtime=model.manifest.runtime,
            name=model.name,
            version=model.version,
            folder=str(model.folder),
            options=model.manifest.options,
            schema=msgspec.to_builtins(model.schema),
            device=device,
            concurrency=model.concurrency,
            timeout=model.timeout.total_seconds(),
            reach=None if model.reach is None else list(model.reach),
            arena_bytes=0 if arena is None else arena.size,
            files=files,
            describe_only=describe_only,
        )
    )


def call(call: LiveCall, arena: Arena | None) -> list[bytes | memoryview]:
    """Return the frame of a call. Large segments are put into the arena; ``call.arena`` notes where."""
    part_window = call.part_window
    if not call.segments:
        header = frames.CallHeader(call.request_id, call.streams, window=call.window, part_window=part_window)
        return [frames.encode(frames.CALL, call.id, header, call.input)]
    stated: list[frames.SegmentHeader] = []
    inline: list[bytes | memoryview] = []
    for segment in call.segments:
        data, offset, file = segment.data, -1, None
        if isinstance(data, FileBytes):
            file = data.path
        else:
            offset = _place(call, data, arena)
            if offset < 0:
                inline.append(data)
        stated.append(
            frames.SegmentHeader(len(data), segment.media_type, list(segment.path), segment.name, offset, file)
        )
    header = frames.CallHeader(call.request_id, call.streams, stated, call.window, part_window)
    return frames.encode_parts(frames.CALL, call.id, header, [call.input, *inline])


def part(session_id: int, json: bytes, segments: Sequence[Segment]) -> Sequence[bytes | memoryview]:
    """Return the frame of a part. Its media go through the socket: how many of them there are is bounded, and memory
    that is shared would be held until the model has no more use for it, which only the model knows."""
    if not segments:
        return [frames.encode(frames.PART, session_id, None, json)]
    pieces = [segment.in_memory() for segment in segments]
    stated = [
        frames.SegmentHeader(len(piece), segment.media_type, list(segment.path), segment.name)
        for piece, segment in zip(pieces, segments, strict=True)
    ]
    return frames.encode_parts(frames.PART, session_id, frames.PartHeader(stated), [json, *pieces])


def _place(call: LiveCall, data: bytes | memoryview, arena: Arena | None) -> int:
    """Put large data into the shared memory. Return their offset; -1 for data that go through the socket."""
    length = len(data)
    if length < MIN_BYTES or arena is None:
        return -1
    offset = arena.put(data)
    if offset is None:
        return -1
    call.arena = [*(call.arena or ()), (offset, length)]
    return offset
