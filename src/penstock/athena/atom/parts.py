"""The parts of a session that wait until its engine has room for them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from penstock.athena.protocol.engine_calls import CallInput
from penstock.models.host.sessions import LiveSession, SessionOver
from penstock.models.http.metering import Stated

MAX_WAITING_BYTES: Final = 2**20  # of one session
_OVERHEAD: Final = 1024  # bytes that a part takes beside its data


class EngineBusy(Exception):
    """A message cannot be taken in time, because too many bytes wait for the engine. It may be sent again."""


class PartQueue:
    """Sends parts to a session in order, by a task of its own, so that no RPC has to wait for the engine.

    Parts are dropped once the session has ended.
    """

    def __init__(self, call: LiveSession, stated: Stated) -> None:
        self.failure: Exception | None = None  # it has ended the session
        self._call = call
        self._stated = stated
        self._waiting: deque[tuple[CallInput | None, int]] = deque()  # None: no part follows
        self._bytes = 0
        self._moved = asyncio.Event()  # parts were sent or dropped
        self._task: asyncio.Task[None] | None = None

    def put(self, part: CallInput | None) -> None:
        """Add a part; None notes that no part follows."""
        if self._call.done.done():
            return
        size = 0 if part is None else _size(part)
        self._waiting.append((part, size))
        self._bytes += size + _OVERHEAD
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def room(self, size: int) -> None:
        """Wait until a message of ``size`` bytes may be added. One that is larger than the limit may wait alone."""
        while self._bytes and self._bytes + size > MAX_WAITING_BYTES:
            await self._news()

    async def sent(self) -> None:
        """Wait until all parts were sent or dropped. Raises the failure that has ended the session."""
        while self._waiting:
            await self._news()
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Drop the parts that wait. It may be repeated."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._drop()

    async def _news(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _run(self) -> None:
        try:
            with suppress(SessionOver):  # a poll returns how it ended
                await self._send()
        except Exception as error:  # noqa: BLE001 - the RPCs of the session raise it
            self.failure = error
            self._call.close()
        finally:
            self._task = None
            self._drop()

    async def _send(self) -> None:
        while self._waiting:
            part, size = self._waiting[0]
            if part is None:
                self._call.finish()
            else:
                await self._call.send(part.json, part.segments)
                self._stated.bytes_in += size
            self._waiting.popleft()
            self._bytes -= size + _OVERHEAD
            self._moved.set()

    def _drop(self) -> None:
        self._waiting.clear()
        self._bytes = 0
        self._moved.set()


def _size(part: CallInput) -> int:
    return len(part.json) + sum(len(segment.data) for segment in part.segments)
