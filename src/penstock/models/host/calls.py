"""A call as its host sees it, from its acceptance to its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from penstock.models.replica.runtime import Segment

if TYPE_CHECKING:
    from penstock.models.host.deployment import Deployment
    from penstock.models.host.replica import Replica


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended well."""

    json: bytes  # null where segments stand
    segments: Sequence[Segment]
    model_seconds: float  # in the model
    queue_seconds: float  # from acceptance to the replica that answered
    version: str


class Listener(Protocol):
    """Follows a call as it runs; called on the event loop, must not block."""

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None: ...
    def progress(self, json: bytes) -> None: ...
    def log(self, level: str, message: str) -> None: ...


class LiveCall:
    """One call: what is asked, who listens, and the future of its answer."""

    __slots__ = (
        "abandoned",
        "accepted_at",
        "attempts",
        "chunk_count",
        "chunks",
        "deployment",
        "done",
        "id",
        "input",
        "listener",
        "replica",
        "request_id",
        "segments",
        "sent_at",
        "started_at",
        "streams",
        "timed_out",
    )

    def __init__(
        self,
        input: bytes,  # noqa: A002
        segments: Sequence[Segment],
        *,
        request_id: str,
        streams: bool,
        collects: bool,
        listener: Listener | None,
    ) -> None:
        self.id = 0  # set when it is sent; unique within the process
        self.input = input
        self.segments = segments
        self.request_id = request_id
        self.streams = streams  # the caller reads chunks as they come
        self.listener = listener
        self.done: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self.accepted_at = time.perf_counter()
        self.sent_at = 0.0
        self.started_at = 0.0  # when a replica can have begun it; 0: not yet
        self.attempts = 0  # replicas that may have begun it
        self.chunk_count = 0
        self.chunks: list[tuple[bytes, Sequence[Segment]]] | None = [] if collects else None  # kept for the answer
        self.deployment: Deployment | None = None
        self.replica: Replica | None = None
        self.abandoned = False  # the caller has gone
        self.timed_out = False  # the caller was told that it took too long

    @property
    def told_something(self) -> bool:
        """Whether somebody has heard a part of the answer: then it cannot begin again."""
        return self.listener is not None and self.chunk_count > 0

    def begin_again(self) -> None:
        """The replica is gone; another one will answer."""
        self.replica, self.started_at, self.chunk_count = None, 0.0, 0
        if self.chunks is not None:
            self.chunks = []

    def abandon(self) -> None:
        """The caller has gone; does nothing to a call that has ended."""
        if self.deployment is not None:
            self.deployment.abandon(self)

    def add_chunk(self, json: bytes, segments: Sequence[Segment]) -> None:
        self.chunk_count += 1
        if self.chunks is not None:
            self.chunks.append((json, segments))
        if self.listener is not None:
            self.listener.chunk(json, segments)

    def succeed(self, json: bytes, segments: Sequence[Segment], *, model_seconds: float, version: str) -> None:
        if not self.done.done():
            queue_seconds = max(0.0, self.sent_at - self.accepted_at)
            self.done.set_result(CallResult(json, segments, model_seconds, queue_seconds, version))

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def collected(self) -> tuple[bytes, Sequence[Segment]]:
        """All chunks as one answer: a list. Null where they were not kept."""
        if self.chunks is None:
            return b"null", ()
        parts = [json for json, _ in self.chunks]
        segments = [
            Segment(segment.data, segment.media_type, (index, *segment.path), segment.name)
            for index, (_, found) in enumerate(self.chunks)
            for segment in found
        ]
        return b"[" + b",".join(parts) + b"]", segments
