"""Group commit: who is written together, who gets which answer, and what one bad item does to its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from penstock.errors import DatabaseUnavailable, StaleEpoch
from penstock.jobs.batcher import Batcher


class Ledger:
    """A flush that notes its batches and ends each only when it is told to."""

    def __init__(self, *, held: bool = True, bad: frozenset[int] = frozenset()) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Semaphore(0)
        self._bad = bad
        self._go = asyncio.Semaphore(0)
        self._held = held

    async def flush(self, items: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(items))
        self.begun.release()
        if self._held:
            await self._go.acquire()
        if self._bad & set(items):
            raise asyncpg.DataError("bad item")
        return [StaleEpoch() if item < 0 else item * 10 for item in items]

    def let_go(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._go.release()


async def test_a_batch_takes_no_more_than_its_weight_but_always_one_item() -> None:
    ledger = Ledger()
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1, weigh=lambda item: item, max_weight=10)
    putting = [batcher.put(item) for item in (1, 4, 6, 1, 50, 3, 7, 1)]
    for _ in range(5):
        await ledger.begun.acquire()
        ledger.let_go()
    assert await asyncio.gather(*putting) == [10, 40, 60, 10, 500, 30, 70, 10]
    assert ledger.batches == [[1, 4], [6, 1], [50], [3, 7], [1]]


async def test_an_idle_batcher_writes_a_single_item_at_once() -> None:
    ledger = Ledger(held=False)
    batcher: Batcher[int, int] = Batcher(ledger.flush)
    assert await batcher.put(1) == 10
    assert ledger.batches == [[1]]


async def test_items_that_come_while_a_batch_is_in_flight_are_written_together_by_the_next() -> None:
    ledger = Ledger()
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1)
    first = batcher.put(0)
    await ledger.begun.acquire()
    others = [batcher.put(number) for number in range(1, 8)]
    ledger.let_go()
    assert await first == 0
    await ledger.begun.acquire()
    assert not any(other.done() for other in others)
    ledger.let_go()
    assert await asyncio.gather(*others) == [10, 20, 30, 40, 50, 60, 70]
    assert ledger.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]


async def test_no_batch_is_larger_than_the_maximum_and_the_order_is_kept() -> None:
    ledger = Ledger(held=False)
    sizes: list[int] = []
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1, max_size=4, observe=sizes.append)
    answers = await asyncio.gather(*(batcher.put(number) for number in range(10)))
    assert answers == [number * 10 for number in range(10)]
    assert sizes == [4, 4, 2]
    assert [item for batch in ledger.batches for item in batch] == list(range(10))


async def test_as_many_batches_as_lanes_are_in_flight_and_no_more() -> None:
    ledger = Ledger()
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=2, max_size=1)
    futures = [batcher.put(number) for number in range(4)]
    await ledger.begun.acquire()
    await ledger.begun.acquire()
    assert ledger.batches == [[0], [1]]
    ledger.let_go(4)
    assert await asyncio.gather(*futures) == [0, 10, 20, 30]


async def test_a_lane_is_free_again_after_its_batch() -> None:
    ledger = Ledger(held=False)
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1)
    for number in range(5):
        assert await batcher.put(number) == number * 10
    assert len(ledger.batches) == 5


@pytest.mark.parametrize("bad", [0, 3, 7])
async def test_a_refused_item_fails_alone_and_its_neighbours_are_written(bad: int) -> None:
    ledger = Ledger(held=False, bad=frozenset({bad}))
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1)
    answers = await asyncio.gather(*(batcher.put(number) for number in range(8)), return_exceptions=True)
    assert isinstance(answers.pop(bad), asyncpg.DataError)
    assert answers == [number * 10 for number in range(8) if number != bad]


async def test_several_refused_items_of_one_batch_all_fail_alone() -> None:
    ledger = Ledger(held=False, bad=frozenset({1, 2, 6}))
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1)
    answers = await asyncio.gather(*(batcher.put(number) for number in range(8)), return_exceptions=True)
    assert [number for number, answer in enumerate(answers) if isinstance(answer, asyncpg.DataError)] == [1, 2, 6]


async def test_an_error_as_an_answer_is_raised_to_its_caller_alone() -> None:
    ledger = Ledger(held=False)
    batcher: Batcher[int, int] = Batcher(ledger.flush)
    good, stale = batcher.put(1), batcher.put(-1)
    assert await good == 10
    with pytest.raises(StaleEpoch):
        await stale


async def test_a_lost_database_fails_the_whole_batch_without_trying_its_halves() -> None:
    tries = 0

    async def flush(_items: Sequence[int]) -> list[int]:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable

    batcher: Batcher[int, int] = Batcher(flush, lanes=1)
    answers = await asyncio.gather(*(batcher.put(number) for number in range(5)), return_exceptions=True)
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
    assert tries == 1


async def test_a_failed_batch_does_not_stop_the_next() -> None:
    down = True

    async def flush(items: Sequence[int]) -> list[int]:
        if down:
            raise DatabaseUnavailable
        return list(items)

    batcher: Batcher[int, int] = Batcher(flush, lanes=1)
    with pytest.raises(DatabaseUnavailable):
        await batcher.put(1)
    down = False
    assert await batcher.put(2) == 2


async def test_a_caller_that_goes_away_does_not_disturb_its_neighbours_and_its_item_is_still_written() -> None:
    ledger = Ledger()
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=1)
    gone, stays = batcher.put(1), batcher.put(2)
    await ledger.begun.acquire()
    gone.cancel()
    ledger.let_go()
    assert await stays == 20
    assert gone.cancelled()
    assert ledger.batches == [[1, 2]]


async def test_drain_waits_until_everything_handed_in_is_written() -> None:
    ledger = Ledger(held=False)
    batcher: Batcher[int, int] = Batcher(ledger.flush, lanes=2, max_size=3)
    futures = [batcher.put(number) for number in range(20)]
    await batcher.drain()
    assert [future.result() for future in futures] == [number * 10 for number in range(20)]


async def test_drain_of_an_unused_batcher_returns_at_once() -> None:
    batcher: Batcher[int, int] = Batcher(Ledger().flush)
    await asyncio.wait_for(batcher.drain(), 1)


async def test_a_cancelled_flush_cancels_its_callers() -> None:
    async def flush(_items: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    batcher: Batcher[int, int] = Batcher(flush, lanes=1)
    with pytest.raises(asyncio.CancelledError):
        await batcher.put(1)
