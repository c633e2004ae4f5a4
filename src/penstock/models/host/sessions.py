"""A session as its host sees it: a call whose input comes in parts while its output is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from penstock.errors import Overloaded, TooLarge
from penstock.models.host import sent
from penstock.models.host.calls import Listener, LiveCall
from penstock.models.host.windows import Windows
from penstock.models.replica import frames
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import Segment
from penstock.tenants.principal import DEFAULT_TENANT, TenantId

MAX_PART_BYTES: Final = 64 * 2**20

Pieces = Sequence[bytes | memoryview]


class SessionOver(Exception):
    """A part was sent to a session that has ended; ``done`` has its result or its error."""


class LiveSession(LiveCall):
    """One session. ``send`` parts, one after the other, then ``finish``; close it at the end, as any call.

    Parts that the model has not taken fill the session's window, wherever they are; while it is full, ``send`` waits.
    Parts that are sent before the session has reached a replica wait here.
    """

    __slots__ = (  # noqa: RUF023 - grouped, not sorted
        # the caller
        "active_at",  # perf_counter of the last part or chunk, or report of parts that were taken; 0: none yet
        "finished",  # no more parts come
        "part_bytes",  # of all parts so far
        "part_count",
        "part_window",  # bytes of parts that the model may not have taken
        "untaken",  # bytes of parts that the host does not know to be taken
        "_early",  # parts that were sent before the session has reached a replica
        "_forward",  # sends frames to the replica; None: it has not reached one
        "_part_windows",  # where the window came from
        "_room",  # set when parts were taken, for senders that wait; None: none has waited yet
    )

    def __init__(
        self,
        input: bytes,  # noqa: A002
        segments: Sequence[Segment] = (),
        *,
        windows: Windows,
        part_windows: Windows,
        request_id: str = "",
        collects: bool = True,
        listener: Listener | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> None:
        """Take windows for chunks and parts. Raises Overloaded."""
        super().__init__(
            input,
            segments,
            request_id=request_id,
            streams=True,
            collects=collects,
            windows=windows,
            listener=listener,
            loop=loop,
            tenant=tenant,
        )
        self.active_at = 0.0
        self.finished = False
        self.part_bytes = self.part_count = self.untaken = self.part_window = 0
        self._early: list[tuple[bytes, Sequence[Segment]]] = []
        self._forward: Callable[[Pieces], None] | None = None
        self._part_windows = part_windows
        self._room: asyncio.Event | None = None
        self.done.add_done_callback(self._wake)
        try:
            self.part_window = part_windows.take()
        except Overloaded:
            self.close()
            raise

    async def send(self, json: bytes, segments: Sequence[Segment] = ()) -> None:
        """Send a part, which must be JSON, with null at the places of segments; wait while the window is full.

        Raises SessionOver when the session has ended, and TooLarge.
        """
        size = frames.chunk_size(len(json))
        for segment in segments:
            if isinstance(segment.data, FileBytes):
                raise TypeError("the media of a part must be in memory")
            size += len(segment.data)
        if size > MAX_PART_BYTES:
            raise TooLarge(f"a part of a session may have {MAX_PART_BYTES} bytes, not {size}")
        while not self.done.done() and not frames.fits(self.part_window, self.untaken, size):
            if self._room is None:
                self._room = asyncio.Event()
            self._room.clear()
            await self._room.wait()
        if self.done.done() or self.finished:
            raise SessionOver("the session has ended" if self.done.done() else "a part came after the last one")
        self.active_at = time.perf_counter()
        self.untaken += size
        self.part_count += 1
        self.part_bytes += size - frames.chunk_size(0)
        if self._forward is None:
            self._early.append((json, segments))
        else:
            self._forward(sent.part(self.id, json, segments))

    def finish(self) -> None:
        """Note that no more parts come. It may be repeated."""
        if not self.finished:
            self.finished = True
            self.active_at = time.perf_counter()
            if self._forward is not None and not self.done.done():
                self._forward([frames.encode(frames.END, self.id)])

    @property
    def limited_from(self) -> float:
        return max(self.started_at, self.active_at)

    def close(self) -> None:
        super().close()
        if self.part_window:
            self._part_windows.give_back(self.part_window)
            self.part_window = 0

    # For the replica

    def begin(self, forward: Callable[[Pieces], None]) -> list[bytes | memoryview]:
        """Note that the session has reached a replica: return the frames of the parts that have waited for that, and
        send later ones with ``forward``."""
        self._forward = forward
        early, self._early = self._early, []
        pieces = [piece for json, segments in early for piece in sent.part(self.id, json, segments)]
        if self.finished:
            pieces.append(frames.encode(frames.END, self.id))
        return pieces

    def take(self, size: int) -> None:
        """Note that the model has taken ``size`` bytes of parts. Raises ProtocolError."""
        if not 0 < size <= self.untaken:
            raise frames.ProtocolError(f"{size} bytes of parts were taken, of {self.untaken}")
        self.active_at = time.perf_counter()
        self.untaken -= size
        self._wake()

    def add_chunk(self, json: bytes, segments: Sequence[Segment], size: int) -> None:
        self.active_at = time.perf_counter()
        super().add_chunk(json, segments, size)

    def _wake(self, _done: object = None) -> None:
        if self._room is not None:
            self._room.set()
