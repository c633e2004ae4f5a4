"""Periodic work runs at its interval, rarely while idle, at once when woken, and despite failed passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from penstock.errors import DatabaseUnavailable
from penstock.processes.periodic import Periodic
from tests.support.waiting import until

_SOON = timedelta(milliseconds=1)
_NEVER = timedelta(days=1)


class Duty(Periodic):
    """A duty that counts its passes and calls ``each`` in every one."""

    def __init__(self, each: Callable[[Duty], bool], *, idle_interval: timedelta | None = None) -> None:
        super().__init__(interval=_SOON, idle_interval=idle_interval)
        self._each = each
        self.passes = 0

    async def once(self) -> bool:
        self.passes += 1
        return self._each(self)


@asynccontextmanager
async def running(*duties: Duty) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(duty.run()) for duty in duties]
    try:
        yield
    finally:
        await asyncio.gather(*(duty.stop() for duty in duties))
        await asyncio.gather(*tasks)


def nothing(_duty: Duty) -> bool:
    return False


async def test_without_an_idle_interval_it_continues_at_its_interval() -> None:
    duty = Duty(nothing)
    async with running(duty):
        await until(lambda: duty.passes >= 5, "five passes")


async def test_an_idle_duty_waits_for_a_wake_up() -> None:
    idle, busy = Duty(nothing, idle_interval=_NEVER), Duty(nothing)
    async with running(idle, busy):
        await until(lambda: busy.passes >= 20, "the other one has passed often")
        assert idle.passes == 1
        idle.wake()
        await until(lambda: idle.passes == 2, "it was woken")


async def test_a_wake_up_during_a_pass_is_not_lost() -> None:
    def wake_in_the_first(duty: Duty) -> bool:
        if duty.passes == 1:
            duty.wake()
        return False

    duty = Duty(wake_in_the_first, idle_interval=_NEVER)
    async with running(duty):
        await until(lambda: duty.passes == 2, "the second pass")


async def test_due_work_ends_the_wait() -> None:
    def due(duty: Duty) -> bool:
        duty.due_in = 2 * _SOON if duty.passes < 3 else None
        return False

    duty, busy = Duty(due, idle_interval=_NEVER), Duty(nothing)
    async with running(duty, busy):
        await until(lambda: duty.passes == 3, "due twice")
        passed = busy.passes
        await until(lambda: busy.passes >= passed + 20, "the other one has passed often")
        assert duty.passes == 3


async def test_remaining_work_is_done_at_once() -> None:
    duty = Duty(lambda duty: duty.passes < 50, idle_interval=_NEVER)
    async with running(duty):
        await until(lambda: duty.passes == 50, "all is done")


async def test_a_failed_pass_does_not_end_the_duty() -> None:
    def fail(duty: Duty) -> bool:
        if duty.passes == 1:
            raise RuntimeError("a bug in the duty")
        if duty.passes == 2:
            raise DatabaseUnavailable
        return False

    duty = Duty(fail)
    async with running(duty):
        await until(lambda: duty.passes >= 3, "a third pass")


async def test_stopping_an_idle_duty_does_not_wait() -> None:
    duty = Duty(nothing, idle_interval=_NEVER)
    async with running(duty):
        await until(lambda: duty.passes == 1, "it is idle")


async def test_stopping_a_duty_that_never_ran_is_fine() -> None:
    await Duty(nothing).stop()
