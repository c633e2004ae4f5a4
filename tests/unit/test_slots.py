"""The slots of a worker: never more in use than exist, and given to waiters in order."""

from __future__ import annotations

import asyncio

from penstock.jobs.slots import Slots


async def test_no_more_slots_are_given_than_exist() -> None:
    slots = Slots(3)
    assert await slots.take(2, seconds=0) == 2
    assert await slots.take(2, seconds=0) == 1
    assert await slots.take(2, seconds=0) == 0
    slots.give_back(2)
    assert await slots.take(5, seconds=0) == 2


async def test_waiters_get_slots_in_order_of_arrival() -> None:
    slots = Slots(2)
    assert await slots.take(2, seconds=0) == 2
    order: list[str] = []

    async def wait(name: str) -> None:
        assert await slots.take(1, seconds=10) == 1
        order.append(name)

    waiting = [asyncio.create_task(wait(name)) for name in "abc"]
    await asyncio.sleep(0)
    slots.give_back(1)
    assert await slots.take(1, seconds=0) == 0, "the slot belongs to the waiter"
    slots.give_back(1)
    await asyncio.gather(*waiting[:2])
    assert order == ["a", "b"]
    slots.give_back(1)
    await waiting[2]
    assert slots.taken == 2


async def test_a_waiter_that_leaves_keeps_no_slot() -> None:
    slots = Slots(1)
    assert await slots.take(1, seconds=0) == 1
    leaving = asyncio.create_task(slots.take(1, seconds=10))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await slots.take(1, seconds=0.001) == 0
    slots.give_back(1)
    assert await slots.take(1, seconds=0) == 1

    unlucky = asyncio.create_task(slots.take(1, seconds=10))
    await asyncio.sleep(0)
    slots.give_back(1)  # granted, and cancelled before it can run
    unlucky.cancel()
    await asyncio.gather(unlucky, return_exceptions=True)
    assert slots.taken == 0
