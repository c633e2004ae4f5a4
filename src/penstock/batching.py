"""Batching without a timer: while one batch is in flight the next one forms.

An idle ``Batching`` handles an item at once; under load, batches grow by themselves. Each caller gets its own result,
and only after its batch has been handled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Error = TypeVar("Error", bound=Exception)

_TRIES = 3  # of a batch that failed with an ``unlucky`` error
_Waiter: TypeAlias = "_One[Result] | _Several[Result]"


class Batching(Generic[Item, Result]):
    """Handles items in batches through ``handle``, which returns one result for each item, in order.

    A result that is an exception is raised to that item's caller alone. ``concurrency`` batches may be in flight at
    once. A batch holds up to ``max_items`` items; where ``weigh`` returns the bytes of an item, a batch holds up to
    ``max_bytes`` of them, or one item.

    A batch that ``handle`` refuses because of its content (it raises one of ``refused``) is split into halves until the
    bad item is alone, so that only its caller gets the error, which ``refusal`` makes. A batch that fails with one of
    ``unlucky`` (nothing was written, and the same batch may succeed now) is tried again. Any other exception is raised
    to every caller of the batch.

    ``skip_gone``: leave out items whose callers were cancelled before their batch began.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        max_items: int = 512,
        concurrency: int = 1,
        refused: tuple[type[Exception], ...] = (),
        unlucky: tuple[type[Exception], ...] = (),
        refusal: Callable[[Item, Exception], Exception] | None = None,
        observe: Callable[[int], None] | None = None,
        weigh: Callable[[Item], int] | None = None,
        max_bytes: int = 8 * 2**20,
        skip_gone: bool = False,
    ) -> None:
        self._handle = handle
        self._max_items = max_items
        self._free = concurrency
        self._refused = refused
        self._unlucky = unlucky
        self._refusal = refusal
        self._observe = observe
        self._weigh = weigh
        self._max_bytes = max_bytes
        self._skip_gone = skip_gone
        self._waiting: deque[tuple[Item, _Waiter[Result], int]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, item: Item) -> asyncio.Future[Result]:
        """Queue an item and return a future, which is done when its batch was handled or refused."""
        waiter: _One[Result] = _One()
        self._waiting.append((item, waiter, 0))
        self._start()
        return waiter.future

    def put_all(self, items: Sequence[Item]) -> asyncio.Future[list[Result | Exception]]:
        """Queue several items for one caller, which gets all results in order, with exceptions as values."""
        waiter: _Several[Result] = _Several(len(items))
        self._waiting.extend([(item, waiter, place) for place, item in enumerate(items)])
        self._start()
        return waiter.future

    async def drain(self) -> None:
        """Wait until every queued item has been handled."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self) -> None:
        if self._free and self._waiting:
            self._free -= 1
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                self._start()  # for the items that are left
                if batch:
                    if self._observe is not None:
                        self._observe(len(batch))
                    await self._settle(batch)
        finally:
            self._free += 1

    def _take(self) -> list[tuple[Item, _Waiter[Result], int]]:
        waiting, size = self._waiting, 0
        batch: list[tuple[Item, _Waiter[Result], int]] = []
        while waiting and len(batch) < self._max_items:
            entry = waiting[0]
            if self._weigh is not None:
                size += self._weigh(entry[0])
                if batch and size > self._max_bytes:
                    break
            waiting.popleft()
            if not (self._skip_gone and entry[1].gone):
                batch.append(entry)
        return batch

    async def _settle(self, batch: Sequence[tuple[Item, _Waiter[Result], int]]) -> None:
        try:
            results = await self._handled([item for item, _, _ in batch])
        except self._refused as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            item, waiter, place = batch[0]
            waiter.settle(place, self._refusal(item, error) if self._refusal else error)
        except BaseException as error:
            for _, waiter, place in batch:
                waiter.settle(place, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, waiter, place), result in zip(batch, results, strict=True):
                waiter.settle(place, result)

    async def _handled(self, items: Sequence[Item]) -> Sequence[Result | BaseException]:
        for _ in range(_TRIES - 1):
            try:
                results = await self._handle(items)
            except self._unlucky:
                continue
            else:
                break
        else:
            results = await self._handle(items)
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results were returned for {len(items)} items")
        return results


def values(results: Sequence[Result | Exception], allowed: type[Error]) -> list[Result | Error]:
    """Return results in which only ``allowed`` errors occur as values; raise the first error of any other kind."""
    checked: list[Result | Error] = []
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, allowed):
            raise result
        checked.append(result)
    return checked


class _One(Generic[Result]):
    """A caller with one item."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        return self.future.done()

    def settle(self, _place: int, result: Result | BaseException) -> None:
        future = self.future
        if future.done():  # the caller was cancelled
            return
        if not isinstance(result, BaseException):
            future.set_result(result)
        elif isinstance(result, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(result)


class _Several(Generic[Result]):
    """A caller with several items, which may end in different batches."""

    __slots__ = ("_left", "_results", "future")

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[list[Result | Exception]] = asyncio.get_running_loop().create_future()
        self._results: list[Result | Exception | None] = [None] * count
        self._left = count
        if not count:
            self.future.set_result([])

    @property
    def gone(self) -> bool:
        return self.future.done()

    def settle(self, place: int, result: Result | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            self.future.cancel()
            return
        self._results[place] = result
        self._left -= 1
        if not self._left:
            self.future.set_result(self._results)  # type: ignore[arg-type]  # none of them is None by now
