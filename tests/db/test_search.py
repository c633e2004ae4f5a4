"""Lists: every filter says what going through all jobs by hand would, page by page, with bounded work."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.jobs import search
from penstock.jobs.job import Job, JobSummary
from penstock.jobs.states import ErrorCategory, Status
from tests.db.stage import Caller, look

Check = Callable[[JobSummary], bool]


async def _crowd(caller: Caller) -> list[Job]:
    """Jobs of every kind and state, oldest first."""
    dice = random.Random(3)
    made = [
        await caller.submit(
            owner_service=dice.choice(["a", "b", "rare"] if number % 10 == 0 else ["a", "b"]),
            owner_ref=dice.choice(["", "r/1", "r/2"]),
            task_type=dice.choice(["x", "y"]),
            model_profile=dice.choice(["m", "n"]),
            priority=dice.choice([-3, 0, 7]),
            max_attempts=dice.choice([1, 3]),
            tags=dice.sample(["red", "green", "blue"], dice.randrange(3)),
            idempotency_key=f"key {number}" if number % 7 == 0 else None,
        )
        for number in range(90)
    ]
    for job in await caller.claim(20, worker_id="w1") + await caller.claim(20, worker_id="w2"):
        match dice.randrange(4):
            case 0:
                await caller.complete(job)
            case 1:
                await caller.fail(job, dice.choice([ErrorCategory.BAD_INPUT, ErrorCategory.TIMEOUT]))
            case 2:
                await caller.fail(job, ErrorCategory.CANCELLED)
            case _:
                pass
    return [await caller.get(job.id) for job in made]


async def _walk(caller: Caller, *, limit: int = 100, **where: Any) -> list[JobSummary]:
    found: list[JobSummary] = []
    cursor: str | None = None
    while True:
        page = await caller.page(limit=limit, cursor=cursor, **where)
        assert len(page.jobs) <= limit
        found += page.jobs
        if (cursor := page.next_cursor) is None:
            return found


async def test_every_filter_finds_what_looking_at_each_job_would(alone: Caller) -> None:
    jobs = await _crowd(alone)
    middle = jobs[45].created_at
    finished = sorted(job.finished_at for job in jobs if job.finished_at is not None)
    checks: list[tuple[dict[str, Any], Check]] = [
        ({}, lambda _: True),
        ({"owner_service": "rare"}, lambda job: job.owner_service == "rare"),
        ({"owner_service": "nobody"}, lambda _: False),
        ({"owner_ref": "r/1"}, lambda job: job.owner_ref == "r/1"),
        ({"task_type": "x", "model_profile": "n"}, lambda job: (job.task_type, job.model_profile) == ("x", "n")),
        *(({"status": [status]}, _has(status)) for status in Status),
        ({"status": [Status.FAILED, Status.RUNNING]}, lambda job: job.status in {Status.FAILED, Status.RUNNING}),
        ({"status": [Status.PENDING], "owner_service": "a"}, lambda j: (j.status, j.owner_service) == ("pending", "a")),
        ({"priority": 7}, lambda job: job.priority == 7),
        ({"worker_id": "w2"}, lambda job: job.worker_id == "w2"),
        ({"error_category": "timeout"}, lambda job: job.error is not None and job.error.category == "timeout"),
        ({"idempotency_key": "key 14"}, lambda job: job.idempotency_key == "key 14"),
        ({"tags": ["red", "blue"]}, lambda job: {"red", "blue"} <= set(job.tags)),
        ({"max_attempts": 1}, lambda job: job.max_attempts == 1),
        ({"attempt": 0}, lambda job: job.attempt == 0),
        ({"created_after": middle}, lambda job: job.created_at >= middle),
        ({"created_before": middle}, lambda job: job.created_at < middle),
        ({"finished_after": finished[3]}, lambda job: job.finished_at is not None and job.finished_at >= finished[3]),
        ({"finished_before": finished[3]}, lambda job: job.finished_at is not None and job.finished_at < finished[3]),
    ]
    for where, check in checks:
        for limit in (7, 100):
            found = await _walk(alone, limit=limit, **where)
            assert [job.id for job in found] == [job.id for job in reversed(jobs) if check(job)], (where, limit)


async def test_a_rare_match_costs_short_pages_not_a_long_request(
    alone: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_BUDGET", 100)
    (first,) = await alone.submit_many(1, tags=["needle"])
    await alone.submit_many(600)
    pages = 0
    cursor: str | None = None
    found = []
    while True:
        page = await alone.page(limit=10, cursor=cursor, tags=["needle"])
        pages += 1
        found += [job.id for job in page.jobs]
        if (cursor := page.next_cursor) is None:
            break
    assert found == [first.id]
    assert pages >= 4, "each looked at about a hundred"


async def test_pages_do_not_repeat_or_skip_while_jobs_arrive(alone: Caller) -> None:
    before = await alone.submit_many(30)
    page = await alone.page(limit=10)
    await alone.submit_many(10)
    rest = [job.id for job in page.jobs]
    while page.next_cursor is not None:
        page = await alone.page(limit=10, cursor=page.next_cursor)
        rest += [job.id for job in page.jobs]
    assert rest == [job.id for job in reversed(before)]


async def test_a_cursor_that_is_none_of_ours_is_refused(alone: Caller) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        await alone.page(cursor="nonsense")


async def test_a_list_leaves_out_payloads(alone: Caller) -> None:
    await alone.submit(input=b'{"secret": "' + b"x" * 1000 + b'"}')
    (job,) = (await alone.page()).jobs
    assert not hasattr(job, "input")
    assert timedelta(0) <= (await _now(alone)) - job.created_at < timedelta(minutes=1)


async def _now(caller: Caller) -> Any:
    ((moment,),) = await look(caller.service._database, "SELECT clock()")
    return moment


def _has(status: Status) -> Check:
    return lambda job: job.status is status
