"""Parts of a process: started in order, stopped in reverse, even if one does not start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from penstock.part import Part, started


def note(log: list[str], text: str, *, fails: bool = False) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        log.append(text)
        if fails:
            raise RuntimeError(text)

    return step


async def test_parts_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    parts = [
        Part(start=note(log, "+1"), stop=note(log, "-1")),
        Part(),
        Part(start=note(log, "+2"), stop=note(log, "-2")),
    ]
    async with started(parts):
        log.append("runs")
    assert log == ["+1", "+2", "runs", "-2", "-1"]


async def test_when_one_does_not_start_it_and_the_earlier_ones_are_stopped() -> None:
    log: list[str] = []
    parts = [
        Part(start=note(log, "+1"), stop=note(log, "-1")),
        Part(start=note(log, "+2", fails=True), stop=note(log, "-2")),
        Part(start=note(log, "+3"), stop=note(log, "-3")),
    ]
    with pytest.raises(RuntimeError, match=r"\+2"):
        async with started(parts):
            pytest.fail("nothing runs")
    assert log == ["+1", "+2", "-2", "-1"]


async def test_a_part_that_fails_to_stop_keeps_no_other_from_stopping() -> None:
    log: list[str] = []
    with pytest.raises(RuntimeError, match="-2"):
        async with started([Part(stop=note(log, "-1")), Part(stop=note(log, "-2", fails=True))]):
            pass
    assert log == ["-2", "-1"]
