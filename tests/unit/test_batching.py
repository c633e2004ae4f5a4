"""Batching: which items are handled together, which result each caller gets, and the effect of a bad item."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.batching import Batching
from penstock.errors import DatabaseUnavailable, StaleEpoch


class RefusedError(Exception):
    """The batch cannot be handled because of an item in it."""


class UnluckyError(Exception):
    """The same batch may succeed now."""


class Ledger:
    """Records its batches, and ends each only when it is released, or at once with ``held=False``."""

    def __init__(self, *, held: bool = True, bad: frozenset[int] = frozenset()) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Semaphore(0)
        self._bad = bad
        self._released = asyncio.Semaphore(0)
        self._held = held

    async def handle(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        self.begun.release()
        if self._held:
            await self._released.acquire()
        if self._bad & set(items):
            raise RefusedError("bad item")
        return [StaleEpoch() if item < 0 else item * 10 for item in items]

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._released.release()

    def batching(self, **options: Any) -> Batching[int, int]:
        return Batching(self.handle, refused=(RefusedError,), **options)


async def test_batch_holds_up_to_its_bytes_but_always_one_item() -> None:
    ledger = Ledger()
    batching = ledger.batching(weigh=lambda item: item, max_bytes=10)
    putting = [batching.put(item) for item in (1, 4, 6, 1, 50, 3, 7, 1)]
    for _ in range(5):
        await ledger.begun.acquire()
        ledger.release()
    assert await asyncio.gather(*putting) == [10, 40, 60, 10, 500, 30, 70, 10]
    assert ledger.batches == [[1, 4], [6, 1], [50], [3, 7], [1]]


async def test_item_is_handled_at_once_when_idle() -> None:
    ledger = Ledger(held=False)
    assert await ledger.batching().put(1) == 10
    assert ledger.batches == [[1]]


async def test_items_that_arrive_while_a_batch_is_in_flight_form_the_next() -> None:
    ledger = Ledger()
    batching = ledger.batching()
    first = batching.put(0)
    await ledger.begun.acquire()
    others = [batching.put(number) for number in range(1, 8)]
    ledger.release()
    assert await first == 0
    await ledger.begun.acquire()
    assert not any(other.done() for other in others)
    ledger.release()
    assert await asyncio.gather(*others) == [10, 20, 30, 40, 50, 60, 70]
    assert ledger.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]


async def test_batches_have_a_maximum_size_and_keep_the_order() -> None:
    ledger = Ledger(held=False)
    sizes: list[int] = []
    batching = ledger.batching(max_items=4, observe=sizes.append)
    results = await asyncio.gather(*(batching.put(number) for number in range(10)))
    assert results == [number * 10 for number in range(10)]
    assert sizes == [4, 4, 2]
    assert [item for batch in ledger.batches for item in batch] == list(range(10))


async def test_no_more_batches_than_the_concurrency_are_in_flight() -> None:
    ledger = Ledger()
    batching = ledger.batching(concurrency=2, max_items=1)
    futures = [batching.put(number) for number in range(4)]
    await ledger.begun.acquire()
    await ledger.begun.acquire()
    assert ledger.batches == [[0], [1]]
    ledger.release(4)
    assert await asyncio.gather(*futures) == [0, 10, 20, 30]


async def test_items_of_one_caller_use_the_whole_concurrency() -> None:
    ledger = Ledger()
    batching = ledger.batching(concurrency=2, max_items=2)
    results = batching.put_all([1, 2, -3, 4])
    await ledger.begun.acquire()
    await ledger.begun.acquire()
    assert ledger.batches == [[1, 2], [-3, 4]]
    ledger.release(2)
    first, second, stale, last = await results
    assert (first, second, last) == (10, 20, 40)
    assert isinstance(stale, StaleEpoch)


async def test_an_empty_list_of_items_has_no_results() -> None:
    assert await Ledger().batching().put_all([]) == []


async def test_concurrency_is_free_again_after_each_batch() -> None:
    ledger = Ledger(held=False)
    batching = ledger.batching()
    for number in range(5):
        assert await batching.put(number) == number * 10
    assert len(ledger.batches) == 5


@pytest.mark.parametrize("bad", [0, 3, 7])
async def test_refused_item_fails_alone(bad: int) -> None:
    batching = Ledger(held=False, bad=frozenset({bad})).batching()
    results = await asyncio.gather(*(batching.put(number) for number in range(8)), return_exceptions=True)
    assert isinstance(results.pop(bad), RefusedError)
    assert results == [number * 10 for number in range(8) if number != bad]


async def test_refused_item_of_a_caller_with_several_fails_alone_and_is_described() -> None:
    batching = Ledger(held=False, bad=frozenset({2})).batching(refusal=lambda item, _: ValueError(f"{item} is bad"))
    results = await batching.put_all([1, 2, 3])
    assert [str(result) for result in results] == ["10", "2 is bad", "30"]


async def test_several_refused_items_of_one_batch_fail_alone() -> None:
    batching = Ledger(held=False, bad=frozenset({1, 2, 6})).batching()
    results = await asyncio.gather(*(batching.put(number) for number in range(8)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, RefusedError)] == [1, 2, 6]


async def test_error_as_a_result_is_raised_to_its_caller_alone() -> None:
    batching = Ledger(held=False).batching()
    good, stale = batching.put(1), batching.put(-1)
    assert await good == 10
    with pytest.raises(StaleEpoch):
        await stale


async def test_any_other_error_fails_the_whole_batch_without_trying_its_halves() -> None:
    tries = 0

    async def handle(_items: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable

    batching: Batching[int, int] = Batching(handle, refused=(RefusedError,))
    results = await asyncio.gather(*(batching.put(number) for number in range(5)), return_exceptions=True)
    assert all(isinstance(result, DatabaseUnavailable) for result in results)
    assert tries == 1


@pytest.mark.parametrize(("failures", "passes"), [(2, True), (3, False)])
async def test_unlucky_batch_is_tried_three_times(failures: int, passes: bool) -> None:
    tries = 0

    async def handle(items: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise UnluckyError
        return list(items)

    batching: Batching[int, int] = Batching(handle, unlucky=(UnluckyError,))
    (result,) = await asyncio.gather(batching.put(1), return_exceptions=True)
    assert (result == 1) is passes
    assert tries == 3


async def test_failed_batch_does_not_stop_the_next() -> None:
    down = True

    async def handle(items: Sequence[int]) -> list[int]:
        if down:
            raise DatabaseUnavailable
        return list(items)

    batching: Batching[int, int] = Batching(handle)
    with pytest.raises(DatabaseUnavailable):
        await batching.put(1)
    down = False
    assert await batching.put(2) == 2


async def test_too_few_results_fail_the_batch() -> None:
    async def handle(_items: Sequence[int]) -> list[int]:
        return []

    batching: Batching[int, int] = Batching(handle)
    with pytest.raises(ValueError, match="0 results were returned for 1 items"):
        await batching.put(1)


async def test_item_of_a_caller_that_left_is_handled_all_the_same() -> None:
    ledger = Ledger()
    batching = ledger.batching()
    gone, stays = batching.put(1), batching.put(2)
    await ledger.begun.acquire()
    gone.cancel()
    ledger.release()
    assert await stays == 20
    assert gone.cancelled()
    assert ledger.batches == [[1, 2]]


async def test_item_of_a_caller_that_left_before_its_batch_can_be_left_out() -> None:
    ledger = Ledger()
    batching = ledger.batching(skip_gone=True)
    first = batching.put(0)
    await ledger.begun.acquire()
    gone, stays = batching.put(1), batching.put(2)
    gone.cancel()
    ledger.release(2)
    assert (await first, await stays) == (0, 20)
    assert ledger.batches == [[0], [2]]


async def test_drain_waits_until_everything_is_handled() -> None:
    batching = Ledger(held=False).batching(concurrency=2, max_items=3)
    futures = [batching.put(number) for number in range(20)]
    await batching.drain()
    assert [future.result() for future in futures] == [number * 10 for number in range(20)]


async def test_drain_of_an_unused_batching_returns_at_once() -> None:
    await asyncio.wait_for(Ledger().batching().drain(), 1)


async def test_cancelled_batch_cancels_its_callers() -> None:
    async def handle(_items: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    batching: Batching[int, int] = Batching(handle)
    one, several = batching.put(1), batching.put_all([2, 3])
    with pytest.raises(asyncio.CancelledError):
        await one
    with pytest.raises(asyncio.CancelledError):
        await several
