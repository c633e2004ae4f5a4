"""Statistics never count rows, and yet say what counting would."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

from penstock.errors import CallerError
from penstock.jobs import store
from penstock.jobs.job import Stats
from penstock.jobs.states import ErrorCategory
from penstock.postgres.pool import Database
from tests.db.stage import Caller, Clock, look, run

OWNERS, TASKS, PROFILES = ("a", "b"), ("x", "y"), ("m",)


async def _some_life(caller: Caller, dice: random.Random) -> None:
    """A mix of everything that can happen."""
    for _ in range(60):
        await caller.submit(
            owner_service=dice.choice(OWNERS), task_type=dice.choice(TASKS), model_profile=dice.choice(PROFILES)
        )
    for job in await caller.claim(40):
        match dice.randrange(5):
            case 0 | 1:
                await caller.complete(job)
            case 2:
                await caller.fail(job, dice.choice(list(ErrorCategory)))
            case 3:
                await caller.cancel(job.id)
            case _:
                pass
    for listed in (await caller.page(limit=60)).jobs[::3]:
        change = dice.choice([caller.cancel, caller.retry])
        try:
            await change(listed.id)
        except CallerError:
            continue


async def _counted(database: Database, caller: Caller) -> dict[tuple[str, str, str], Counter[str]]:
    rows = await look(
        database,
        "SELECT owner_service, task_type, model_profile, status, count(*) FROM jobs WHERE tenant_id = $1"
        " GROUP BY 1, 2, 3, 4",
        caller.tenant,
    )
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for owner, task, profile, status, number in rows:
        found.setdefault((owner, task, profile), Counter())[status] = number
    return found


def _told(stats: Stats) -> dict[tuple[str, str, str], Counter[str]]:
    return {
        (owner.owner_service, queue.task_type, queue.model_profile): +Counter(
            {name: getattr(owner, name) for name in ("pending", "running", "completed", "failed", "cancelled")}
        )
        for queue in stats.queues
        for owner in queue.owners
    }


async def test_counters_equal_rows_before_and_after_they_are_rolled_up(alone: Caller, fresh: Database) -> None:
    dice = random.Random(7)
    for _ in range(3):
        await _some_life(alone, dice)
        assert _told(await alone.service.stats(alone.tenant)) == await _counted(fresh, alone)
        async with fresh.acquire() as connection:
            assert await store.roll_up(connection) > 0
        assert _told(await alone.service.stats(alone.tenant)) == await _counted(fresh, alone)
    assert await look(fresh, "SELECT count(*) FROM stat_delta") == [(0,)]
    attempts = await look(fresh, "SELECT category, count(*) FROM attempt WHERE tenant_id = $1 GROUP BY 1", alone.tenant)
    stats = await alone.service.stats(alone.tenant)
    assert stats.totals.errors == dict(attempts)
    assert sum(queue.pending for queue in stats.queues) == stats.totals.pending


async def test_the_oldest_pending_job_is_the_oldest_that_is_due(
    alone: Caller, fresh: Database, fresh_clock: Clock
) -> None:
    assert (await alone.service.stats(alone.tenant)).oldest_pending_seconds is None
    await alone.submit()
    await fresh_clock.advance(timedelta(seconds=100))
    await alone.submit(task_type="other")
    stats = await alone.service.stats(alone.tenant)
    ages = {queue.task_type: queue.oldest_pending_seconds for queue in stats.queues}
    assert 100 <= (ages["echo"] or 0) < 110
    assert (ages["other"] or 0) < 10
    assert stats.oldest_pending_seconds == ages["echo"]
    await alone.claim(2)
    assert (await alone.service.stats(alone.tenant)).oldest_pending_seconds is None


async def test_totals_since_the_beginning_survive_retention(alone: Caller, fresh: Database) -> None:
    await alone.complete(await alone.submit_and_claim())
    await run(fresh, "DELETE FROM done")
    assert (await alone.service.stats(alone.tenant)).totals.completed == 1
