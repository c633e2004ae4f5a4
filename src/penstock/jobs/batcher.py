"""Group commit: concurrent calls of one process become one statement, without a timer.

While a statement is in flight the next batch forms; an idle caller is written at once. Each caller is answered
only after the commit of its batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# The server refused the batch because of what is in it: worth finding out which item it was.
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
# Nothing was written, and the same batch may well pass now.
_UNLUCKY = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_TRIES = 3


class Batcher(Generic[Item, Answer]):
    """Writes items in batches through ``flush``, which answers each in order, an exception as a value being raised.

    ``lanes`` batches may be in flight at once. A batch that the server refuses for its content is split in halves
    until the bad item stands alone; only that item's caller gets the error, as ``refusal`` words it. ``weigh`` says an
    item's bytes: a batch takes no more than ``max_weight``, or one item.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | BaseException]]],
        *,
        max_size: int = 512,
        lanes: int = 2,
        observe: Callable[[int], None] | None = None,
        refusal: Callable[[Item, Exception], Exception] | None = None,
        weigh: Callable[[Item], int] | None = None,
        max_weight: int = 8 * 2**20,
    ) -> None:
        self._flush = flush
        self._max_size = max_size
        self._free_lanes = lanes
        self._observe = observe
        self._refusal = refusal
        self._weigh = weigh
        self._max_weight = max_weight
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Queue an item; the future is done when its batch is committed or refused."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._free_lanes:
            self._start_lane()
        return future

    async def drain(self) -> None:
        """Wait until everything that was put is written."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start_lane(self) -> None:
        self._free_lanes -= 1
        task = asyncio.create_task(self._run_lane())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run_lane(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                if self._observe is not None:
                    self._observe(len(batch))
                await self._write(batch)
        finally:
            self._free_lanes += 1

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        size = min(len(self._waiting), self._max_size)
        if self._weigh is None:
            return [self._waiting.popleft() for _ in range(size)]
        batch = [self._waiting.popleft()]
        weight = self._weigh(batch[0][0])
        while len(batch) < size:
            weight += self._weigh(self._waiting[0][0])
            if weight > self._max_weight:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._flush_until_lucky([item for item, _ in batch])
        except _REFUSED as error:
            if len(batch) == 1:
                item, future = batch[0]
                _settle(future, self._refusal(item, error) if self._refusal else error)
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        except BaseException as error:
            for _, future in batch:
                _settle(future, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)

    async def _flush_until_lucky(self, items: Sequence[Item]) -> Sequence[Answer | BaseException]:
        for _ in range(_TRIES - 1):
            try:
                return await self._flush(items)
            except _UNLUCKY:
                continue
        return await self._flush(items)


def _settle(future: asyncio.Future[Answer], answer: Answer | BaseException) -> None:
    if future.done():  # its caller has gone
        return
    if isinstance(answer, asyncio.CancelledError):
        future.cancel()
    elif isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
