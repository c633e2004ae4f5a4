"""Counters equal the rows at all times, without counting them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest

from penstock.errors import StaleEpoch
from penstock.failures import Category
from penstock.jobs.counts import Counts, Stats
from penstock.jobs.sql import duties
from penstock.jobs.states import Status
from penstock.jobs.usage import Usage, UsageCounts, read
from penstock.postgres.pool import Database
from penstock.usage.sql import rollup
from tests.support.clocks import Clock
from tests.support.databases import open_database, query
from tests.support.duties import promote, rescue
from tests.support.jobs import JobCaller

Key = tuple[str, str, str]  # owner service, task type, model profile


async def _counted(database: Database, caller: JobCaller) -> dict[Key, Counts]:
    """Compute the counters from the rows."""
    rows = await query(
        database,
        "SELECT owner_service, task_type, model_profile, status, count(*) FROM jobs WHERE tenant_id = $1"
        " GROUP BY 1, 2, 3, 4",
        caller.tenant,
    )
    errors = await query(
        database,
        "SELECT s.owner_service, s.task_type, s.model_profile, a.category, count(*) FROM attempt a"
        " JOIN job j ON j.id = a.job_id JOIN series s ON s.id = j.series_id WHERE a.tenant_id = $1 GROUP BY 1, 2, 3, 4",
        caller.tenant,
    )
    fields: dict[Key, dict[str, Any]] = {}
    for owner, task, profile, status, count in rows:
        fields.setdefault((owner, task, profile), {"errors": {}})[status] = count
    for owner, task, profile, category, count in errors:
        fields[owner, task, profile]["errors"][category] = count
    used = await query(
        database,
        "SELECT s.owner_service, s.task_type, s.model_profile, u.usage FROM (SELECT job_id, usage FROM done"
        " UNION ALL SELECT job_id, usage FROM attempt) u JOIN job j ON j.id = u.job_id"
        " JOIN series s ON s.id = j.series_id WHERE j.tenant_id = $1 AND u.usage IS NOT NULL",
        caller.tenant,
    )
    for owner, task, profile, column in used:
        so_far = fields[owner, task, profile].setdefault("usage", UsageCounts())
        fields[owner, task, profile]["usage"] = sum_of([so_far, *map(counted, read(column))])
    return {key: Counts(**found) for key, found in fields.items()}


def _reported(stats: Stats) -> dict[Key, Counts]:
    """Return the counters that the service reports, by owner and queue."""
    return {
        (owner.owner_service, queue.task_type, queue.model_profile): Counts(
            **{name: getattr(owner, name) for name in Counts.__struct_fields__}
        )
        for queue in stats.queues
        for owner in queue.owners
    }


async def _roll_up(database: Database) -> int:
    async with database.acquire() as connection:
        return await duties.roll_up(connection) + await rollup.roll_up(connection)


def counted(usage: Usage) -> UsageCounts:
    """Return what the counters should hold for one call."""
    return UsageCounts(
        calls=int(usage.status != "skipped"),
        failures=int(usage.status not in {"completed", "skipped"}),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        audio_seconds=usage.audio_seconds,
        milliseconds=usage.duration_ms,
    )


def sum_of(parts: Sequence[UsageCounts]) -> UsageCounts:
    return reduce(UsageCounts.plus, parts, UsageCounts())


def _some_usage(pick: random.Random) -> list[Usage]:
    """Return the usage of an attempt: of none to three providers."""
    return [
        Usage(provider=provider, model="m", status="failed", error="it broke")
        if pick.random() < 0.3
        else Usage(
            provider=provider, prompt_tokens=pick.randint(0, 9), audio_seconds=pick.randint(0, 9) / 4, duration_ms=5
        )
        for provider in pick.sample("xyz", k=pick.randint(0, 3))
    ]


async def _random_action(caller: JobCaller, database: Database, clock: Clock, pick: random.Random) -> None:
    names = {"owner_service": pick.choice("ab"), "task_type": pick.choice("tu"), "model_profile": pick.choice("mn")}
    match pick.choice(["submit", "submit", "claim", "claim", "complete", "fail", "cancel", "retry", "time"]):
        case "submit":
            run_at = datetime.now(UTC) + clock.ahead + timedelta(minutes=3) if pick.random() < 0.3 else None
            await caller.submit_many(pick.randint(1, 4), run_at=run_at, max_attempts=2, **names)
        case "claim":
            await caller.claim(pick.randint(1, 5))
        case "complete":
            for job in await caller.claim(2):
                await caller.complete(job, usage=_some_usage(pick))
        case "fail":
            for job in await caller.claim(3):
                await caller.fail(job, pick.choice(list(Category)), usage=_some_usage(pick))
        case "cancel" | "retry" as change:
            for shown in (await caller.page(limit=100)).jobs[:: pick.randint(7, 20)]:
                if change == "cancel" and not shown.status.finished:
                    await caller.cancel(shown.id)
                elif change == "retry" and shown.status in {Status.FAILED, Status.RUNNING}:
                    await caller.retry(shown.id)
        case "time":
            await clock.advance(timedelta(minutes=pick.choice([1, 20])))
            await promote(database)
            await rescue(database)


@pytest.mark.parametrize("seed", range(3))
async def test_counters_equal_rows_after_any_history_rolled_up_or_not(
    alone: JobCaller, fresh: Database, fresh_clock: Clock, seed: int
) -> None:
    pick = random.Random(seed)
    for _ in range(100):
        await _random_action(alone, fresh, fresh_clock, pick)
        if pick.random() < 0.1:
            await _roll_up(fresh)
    expected = await _counted(fresh, alone)
    assert len(expected) >= 5
    before = await alone.service.of(alone.tenant).stats()
    assert _reported(before) == expected
    await _roll_up(fresh)
    assert await query(fresh, "SELECT 1 FROM stat_delta UNION ALL SELECT 1 FROM usage_delta") == []
    after = await alone.service.of(alone.tenant).stats()
    assert _reported(after) == expected
    assert after.totals == before.totals
    assert after.totals.usage == sum_of(after.providers)
    assert after.totals.usage.prompt_tokens > 0
    for queue in after.queues:
        assert queue.usage == sum_of([owner.usage for owner in queue.owners])
        assert queue.pending == sum(owner.pending for owner in queue.owners)
        assert queue.completed == sum(owner.completed for owner in queue.owners)
    assert after.totals.running == sum(counts.running for counts in expected.values())


async def test_usage_is_stored_with_its_attempt_and_counted_once(caller: JobCaller) -> None:
    """A call that was not made counts nowhere; a stale or repeated report changes nothing."""
    job = await caller.submit(owner_service="shop")
    first = await caller.claim_one()
    slow = Usage(provider="a", model="m1", status="failed", error="HTTP 500", duration_ms=70)
    await caller.fail(first, Category.SHUTDOWN, usage=[slow, Usage(provider="b", status="skipped", error="not now")])
    second = await caller.claim_one()
    good = Usage(provider="b", model="m2", prompt_tokens=3, completion_tokens=4, audio_seconds=1.5, duration_ms=30)
    for _ in range(2):
        await caller.complete(second, usage=[good])
    with pytest.raises(StaleEpoch):
        await caller.complete(first, usage=[good])
    after = await caller.service.of(caller.tenant).get(job.id)
    assert after.usage == [good]
    assert [attempt.usage for attempt in after.attempts] == [
        [slow, Usage(provider="b", status="skipped", error="not now")]
    ]
    stats = await caller.service.of(caller.tenant).stats()
    assert stats.totals.usage == UsageCounts(
        calls=2, failures=1, prompt_tokens=3, completion_tokens=4, audio_seconds=1.5, milliseconds=100
    )
    assert [(one.provider, one.model, one.calls) for one in stats.providers] == [("a", "m1", 1), ("b", "m2", 1)]


async def test_a_reader_sees_each_job_once_while_the_counters_are_rolled_up(alone: JobCaller, fresh: Database) -> None:
    await alone.submit_many(10)

    async def roller() -> None:
        async with open_database(fresh.url, max_size=1) as database:
            for _ in range(60):
                await _roll_up(database)

    async def reader() -> None:
        for _ in range(60):
            totals = (await alone.service.of(alone.tenant).stats()).totals
            assert totals.pending + totals.running + totals.completed == 10

    async def worker() -> None:
        for _ in range(10):
            await alone.complete(await alone.claim_one())

    await asyncio.gather(roller(), roller(), reader(), worker())
    assert (await alone.service.of(alone.tenant).stats()).totals.completed == 10


async def test_counters_of_an_empty_database_are_empty(alone: JobCaller) -> None:
    stats = await alone.service.of(alone.tenant).stats()
    assert (stats.totals, stats.queues, stats.oldest_pending_seconds) == (Counts(), [], None)


async def test_the_oldest_wait_is_that_of_the_first_due_job(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    await alone.submit(task_type="old")
    await alone.submit(task_type="far", run_at=datetime.now(UTC) + timedelta(days=1))
    await fresh_clock.advance(timedelta(seconds=100))
    await alone.submit(task_type="new")
    stats = await alone.service.of(alone.tenant).stats()
    waits = {queue.task_type: queue.oldest_pending_seconds for queue in stats.queues}
    assert waits["far"] is None, "what is not due does not wait"
    assert waits["old"] is not None
    assert waits["new"] is not None
    assert 100 <= waits["old"] < 130
    assert 0 <= waits["new"] < 30
    assert stats.oldest_pending_seconds == waits["old"]
