"""A call as its host sees it, from its acceptance to its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from penstock.errors import ModelFailed
from penstock.models.host.call_folders import CallFolder
from penstock.models.host.windows import Windows
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.tenants.principal import DEFAULT_TENANT, TenantId

MAX_COLLECTED_BYTES: Final = 64 * 2**20  # of all chunks that are kept for one result


class CallResult(Struct, frozen=True):
    """The result of a successful call."""

    json: bytes  # null where segments stand
    segments: Sequence[Segment]
    model_seconds: float  # in the model
    queue_seconds: float  # from acceptance to the replica that returned the result
    version: str


class Listener(Protocol):
    """Follows a call as it runs. Methods run on the event loop and must not block.

    Chunks count against the call's window until the listener gives their bytes back with ``LiveCall.consume``; while
    the window is full, the model waits.
    """

    def chunk(self, json: bytes, segments: Sequence[Segment]) -> None: ...
    def progress(self, json: bytes) -> None: ...
    def log(self, level: str, message: str) -> None: ...


class LiveCall:
    """One call. Every field is written by one component only; the slots are grouped by their writer."""

    part_window = 0  # of a session: bytes of parts that the model may not have taken

    __slots__ = (  # noqa: RUF023 - grouped, not sorted
        # the caller, when it makes the call
        "accepted_at",  # perf_counter
        "folder",  # of the files of its input; None: it has none
        "held_bytes",  # of input and segments in memory
        "input",
        "listener",
        "request_id",
        "segments",
        "size",  # bytes of input and segments
        "streams",  # the caller reads chunks as they come
        "tenant",  # of the caller
        "window",  # bytes of chunks that may be unread; 0: no limit
        # the component that has the call at the moment: the queue or a replica
        "withdraw",  # removes the call from that component, because its caller has gone
        # the deployment
        "attempts",  # replicas that may have begun it and ended without a result
        # the replica
        "arena",  # offset and length of its segments in the memory shared with the replica
        "grant",  # returns bytes of the window to the replica
        "id",  # set when it is sent; unique within the process
        "sent_at",  # perf_counter
        "started_at",  # perf_counter of when the replica can have begun it; 0: not yet
        "stop_at",  # perf_counter of when it was cancelled; 0: not
        "ungranted",  # bytes given back by the listener that the replica does not know of yet
        # the call itself
        "chunk_count",
        "chunks",  # kept for the result; None: not kept
        "collected_bytes",
        "done",
        "output_bytes",  # of all chunks so far
        "unread",  # bytes of chunks that the listener has not given back
        "_windows",  # where the window came from
    )

    def __init__(
        self,
        input: bytes,  # noqa: A002
        segments: Sequence[Segment] = (),
        *,
        request_id: str = "",
        streams: bool = False,
        collects: bool = True,
        windows: Windows | None = None,
        listener: Listener | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> None:
        self.input = input
        self.tenant = tenant
        self.segments = segments
        self.size = self.held_bytes = len(input)
        self.folder: CallFolder | None = None
        for segment in segments:
            self.size += len(segment.data)
            if not isinstance(segment.data, FileBytes):
                self.held_bytes += len(segment.data)
            elif isinstance(segment.data.folder, CallFolder):
                self.folder = segment.data.folder
        self.request_id = request_id
        self.streams = streams
        self.listener = listener
        self._windows = windows
        self.window = windows.take() if windows is not None and listener is not None else 0
        self.accepted_at = time.perf_counter()
        self.withdraw: Callable[[LiveCall], None] | None = None
        self.attempts = 0
        self.arena: list[tuple[int, int]] | None = None
        self.grant: Callable[[LiveCall, int], None] | None = None
        self.id = 0
        self.sent_at = self.started_at = self.stop_at = 0.0
        self.chunk_count = self.collected_bytes = self.output_bytes = self.unread = self.ungranted = 0
        self.chunks: list[tuple[bytes, Sequence[Segment]]] | None = [] if collects else None
        self.done: asyncio.Future[CallResult] = (loop or asyncio.get_running_loop()).create_future()
        if self.folder is not None:
            self.done.add_done_callback(self._remove_files)

    def _remove_files(self, _done: asyncio.Future[CallResult]) -> None:
        if self.folder is not None:
            self.folder.remove()

    @property
    def limited_from(self) -> float:
        """The perf_counter from which the time limit counts."""
        return self.started_at

    @property
    def visible(self) -> bool:
        """Whether a listener has seen a part of the output, so that the call cannot run again."""
        return self.listener is not None and self.chunk_count > 0

    def close(self) -> None:
        """Give up the call if it runs or waits, and return its window. Callers with a listener must call this at the
        end, others may; it may be repeated."""
        self.done.cancel()  # a caller that was cancelled while it awaited the result has done so already
        if not self.done.cancelled():
            self.done.exception()  # it may have failed unseen
        elif self.withdraw is not None:
            withdraw, self.withdraw = self.withdraw, None
            withdraw(self)
        if self._windows is not None and self.window:
            self._windows.give_back(self.window)
            self.window = 0

    def consume(self, size: int) -> None:
        """Give ``size`` bytes of chunks back to the window: the caller has read them."""
        self.unread -= size
        if self.grant is not None and self.window and not self.done.done():
            self.grant(self, size)

    # For the queue, the deployment and replicas

    def reset(self) -> None:
        """Forget a replica that is gone; another one will run the call."""
        self.arena = None
        self.grant, self.sent_at, self.started_at, self.stop_at = None, 0.0, 0.0, 0.0
        self.chunk_count = self.collected_bytes = self.output_bytes = self.unread = self.ungranted = 0
        if self.chunks is not None:
            self.chunks = []

    def add_chunk(self, json: bytes, segments: Sequence[Segment], size: int) -> None:
        """Take a chunk whose frame had ``size`` bytes."""
        self.chunk_count += 1
        self.output_bytes += size
        self.unread += size
        if self.chunks is not None:
            self._collect(json, segments, size)
        if self.listener is not None:
            self.listener.chunk(json, segments)

    def succeed(self, json: bytes, segments: Sequence[Segment], *, model_seconds: float, version: str) -> None:
        """End the call with a result."""
        if not self.done.done():
            queue_seconds = max(0.0, self.sent_at - self.accepted_at)
            self.done.set_result(CallResult(json, segments, model_seconds, queue_seconds, version))

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    def collected(self) -> tuple[bytes, Sequence[Segment]]:
        """Return all chunks as one output, a list; null if they were not kept."""
        if self.chunks is None:
            return b"null", ()
        parts = [json for json, _ in self.chunks]
        segments = [
            Segment(segment.data, segment.media_type, (index, *segment.path), segment.name)
            for index, (_, found) in enumerate(self.chunks)
            for segment in found
        ]
        return b"[" + b",".join(parts) + b"]", segments

    def _collect(self, json: bytes, segments: Sequence[Segment], size: int) -> None:
        assert self.chunks is not None  # noqa: S101 - the caller has checked it
        self.collected_bytes += size
        if self.collected_bytes <= MAX_COLLECTED_BYTES:
            self.chunks.append((json, segments))
            return
        self.chunks.clear()
        error = ModelFailed(f"the output has more than {MAX_COLLECTED_BYTES} bytes; stream it instead")
        if not self.done.done():
            self.done.set_exception(error)
            if self.withdraw is not None:
                self.withdraw(self)
