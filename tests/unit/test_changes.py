"""Changes reach every follower."""

from __future__ import annotations

import asyncio

from penstock.processes.changes import Changes
from tests.support.waiting import within


async def test_a_follower_that_is_busy_misses_no_change() -> None:
    """Another follower that waits meanwhile takes nothing away from it."""
    changes = Changes()
    seen = changes.count
    other = asyncio.ensure_future(changes.after(changes.count))
    await asyncio.sleep(0)
    changes.note()
    await within(other)
    waiting = asyncio.ensure_future(changes.after(changes.count))
    await within(changes.after(seen))
    assert not waiting.done()
    changes.note()
    await within(waiting)
