"""Lists: every filter compared with a plain Python search of all jobs, on random data, page by page."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from penstock.errors import InvalidInput
from penstock.failures import Category
from penstock.jobs import search
from penstock.jobs.job import Job, JobSummary
from penstock.jobs.states import Status
from penstock.postgres.embedded import EmbeddedServer
from tests.support.databases import open_database, own_database, own_tenant
from tests.support.jobs import JobCaller, job_service

JOBS = 240
OWNERS, TASKS, PROFILES = ("a", "b", "c"), ("read", "write"), ("small", "large")
REFS, TAGS = ("", "r1", "r2"), ("x", "y", "z")
CATEGORIES = (Category.BAD_INPUT, Category.INTERNAL, Category.TIMEOUT)


class Library:
    """Jobs in every state, with their known fields."""

    def __init__(self, caller: JobCaller, jobs: list[Job]) -> None:
        self.caller = caller
        self.jobs = sorted(jobs, key=lambda job: job.id, reverse=True)

    async def pages(self, *, limit: int, **where: Any) -> list[list[JobSummary]]:
        """Return every page of a list."""
        pages: list[list[JobSummary]] = []
        cursor: str | None = None
        while True:
            page = await self.caller.page(limit=limit, cursor=cursor, **where)
            assert len(page.jobs) <= limit
            pages.append(page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                return pages

    def matching(self, **where: Any) -> list[UUID]:
        return [job.id for job in self.jobs if all(RULES[name](job, value) for name, value in where.items())]


# The meaning of each filter.
RULES: dict[str, Callable[[Job, Any], bool]] = {
    "owner_service": lambda job, value: job.owner_service == value,
    "owner_ref": lambda job, value: job.owner_ref == value,
    "user_id": lambda job, value: job.user_id == value,
    "task_type": lambda job, value: job.task_type == value,
    "model_profile": lambda job, value: job.model_profile == value,
    "status": lambda job, value: job.status in value,
    "priority": lambda job, value: job.priority == value,
    "worker_id": lambda job, value: job.worker_id == value,
    "error_category": lambda job, value: job.error is not None and job.error.category is value,
    "idempotency_key": lambda job, value: job.idempotency_key == value,
    "concurrency_key": lambda job, value: job.concurrency_key == value,
    "tags": lambda job, value: set(value) <= set(job.tags),
    "max_attempts": lambda job, value: job.max_attempts == value,
    "attempt": lambda job, value: job.attempt == value,
    "created_after": lambda job, value: job.created_at >= value,
    "created_before": lambda job, value: job.created_at < value,
    "finished_after": lambda job, value: job.finished_at is not None and job.finished_at >= value,
    "finished_before": lambda job, value: job.finished_at is not None and job.finished_at < value,
}


@pytest.fixture(scope="module")
async def library(postgres_server: EmbeddedServer) -> AsyncIterator[Library]:
    """A library of random jobs, with a second tenant's jobs that no list of the first may show."""
    pick = random.Random(42)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(own_database(postgres_server))
        database = await stack.enter_async_context(open_database(url))
        service = await stack.enter_async_context(job_service(database))
        strangers = JobCaller(service, await own_tenant(database))
        await strangers.submit_many(20, owner_service="a", owner_ref="r1", tags=["x"])
        caller = JobCaller(service, await own_tenant(database))
        ids = [(await caller.submit(**_random_fields(pick, number))).id for number in range(JOBS)]
        for turn in range(8):
            for job in await caller.claim(25, worker_id=f"w{turn % 3}"):
                match pick.choice(["complete", "complete", "fail", "fail", "leave", "cancel"]):
                    case "complete":
                        await caller.complete(job)
                    case "fail":
                        await caller.fail(job, pick.choice(CATEGORIES))
                    case "cancel":
                        await caller.fail(job, Category.CANCELLED)
        for job_id in pick.sample(ids, 30):
            if await caller.status(job_id) is Status.PENDING:
                await caller.cancel(job_id)
        yield Library(caller, [await caller.get(job_id) for job_id in ids])


def _random_fields(pick: random.Random, number: int) -> dict[str, Any]:
    return {
        "owner_service": pick.choice(OWNERS),
        "owner_ref": pick.choice(REFS),
        "user_id": pick.choice(["", "ada", "grace"]),
        "task_type": pick.choice(TASKS),
        "model_profile": pick.choice(PROFILES),
        "priority": pick.randint(-1, 1),
        "max_attempts": pick.choice([1, 2, 3]),
        "tags": pick.sample(TAGS, pick.randint(0, 3)),
        "idempotency_key": f"k{number}" if pick.random() < 0.3 else None,
        "concurrency_key": pick.choice([None, None, "c1", "c2"]),
        "run_at": datetime.now(UTC) + timedelta(days=1) if pick.random() < 0.1 else None,
    }


def _single_filters(library: Library) -> dict[str, list[Any]]:
    """Return values for each filter: those that occur, and one that does not."""
    moments = [job.created_at for job in library.jobs[:: JOBS // 5]] + [datetime(2001, 1, 1, tzinfo=UTC)]
    ends = [*[job.finished_at for job in library.jobs if job.finished_at][::20], datetime(2099, 1, 1, tzinfo=UTC)]
    return {
        "owner_service": [*OWNERS, "nobody"],
        "owner_ref": [*REFS, "nothing"],
        "user_id": ["ada", "grace", "nobody"],
        "task_type": [*TASKS, "none"],
        "model_profile": [*PROFILES, "none"],
        "status": [*([status] for status in Status), [], [Status.FAILED, Status.CANCELLED], list(Status)],
        "priority": [-1, 0, 1, 50],
        "worker_id": ["w0", "w1", "w9"],
        "error_category": [*CATEGORIES, Category.RATE_LIMITED],
        "idempotency_key": [*[job.idempotency_key for job in library.jobs if job.idempotency_key][:5], "absent"],
        "concurrency_key": ["c1", "c2", "absent"],
        "tags": [["x"], ["x", "z"], ["x", "y", "z"], ["absent"], []],
        "max_attempts": [1, 2, 3, 99],
        "attempt": [0, 1, 5],
        "created_after": moments,
        "created_before": moments,
        "finished_after": ends,
        "finished_before": ends,
    }


def _meant(where: dict[str, Any]) -> dict[str, Any]:
    """Remove empty lists of states and tags, which filter nothing."""
    return {name: value for name, value in where.items() if value != []}


@pytest.mark.parametrize("name", RULES)
async def test_each_filter_by_itself_selects_the_right_jobs(library: Library, name: str) -> None:
    found_some = False
    for value in _single_filters(library)[name]:
        pages = await library.pages(limit=50, **{name: value})
        expected = library.matching(**_meant({name: value}))
        found_some |= bool(expected)
        assert [job.id for page in pages for job in page] == expected, (name, value)
    assert found_some, "the data should show something"


async def test_any_combination_of_filters_and_page_sizes_finds_the_same_as_reading_everything(library: Library) -> None:
    pick = random.Random(7)
    values = _single_filters(library)
    found = 0
    for _ in range(150):
        where = {name: pick.choice(values[name]) for name in pick.sample(sorted(values), pick.randint(0, 4))}
        pages = await library.pages(limit=pick.choice([1, 3, 10, 100, 500]), **where)
        ids = [job.id for page in pages for job in page]
        assert ids == library.matching(**_meant(where)), where
        found += len(ids)
    assert found > 100


async def test_a_list_shows_each_job_as_its_own_page_does_but_without_payloads(library: Library) -> None:
    (page,) = await library.pages(limit=500)
    for summary, job in zip(page, library.jobs, strict=True):
        shown = {name: getattr(job, name) for name in JobSummary.__struct_fields__}
        assert summary == JobSummary(**shown)


@pytest.mark.parametrize("budget", [1, 7])
async def test_a_filter_that_matches_rarely_gives_short_pages_that_lead_to_everything(
    library: Library, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(search, "_BUDGET", budget)
    where = {"worker_id": "w1", "tags": ["x", "y"]}
    pages = await library.pages(limit=5, **where)
    assert [job.id for page in pages for job in page] == library.matching(**where)
    assert any(len(page) < 5 for page in pages[:-1]), "pages end by the budget, not only when they are full"


async def test_jobs_submitted_while_paging_do_not_shift_the_pages(library: Library) -> None:
    caller = JobCaller(library.caller.service, library.caller.tenant)
    first = await caller.page(limit=10)
    new = await caller.submit(owner_service="late")
    try:
        second = await caller.page(limit=10, cursor=first.next_cursor)
        assert [job.id for job in [*first.jobs, *second.jobs]] == [job.id for job in library.jobs[:20]]
    finally:
        library.jobs.insert(0, await caller.get(new.id))


@pytest.mark.parametrize("cursor", ["", "x", "12", "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz"])
async def test_a_foreign_cursor_is_refused(library: Library, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await library.caller.page(cursor=cursor)


async def test_a_cursor_beyond_the_oldest_job_ends_the_list(library: Library) -> None:
    page = await library.caller.page(cursor=str(UUID(int=0)))
    assert (page.jobs, page.next_cursor) == ([], None)


async def test_a_list_can_continue_from_any_id(library: Library) -> None:
    page = await library.caller.page(cursor=str(uuid7()), limit=3)
    assert [job.id for job in page.jobs] == [job.id for job in library.jobs[:3]]


async def test_a_key_and_its_owner_find_the_job_directly(alone: JobCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of one candidate is enough, however many jobs there are."""
    job = await alone.submit(owner_service="shop", idempotency_key="order 7")
    await alone.submit_many(50)
    monkeypatch.setattr(search, "_BUDGET", 1)
    page = await alone.page(owner_service="shop", idempotency_key="order 7", limit=1)
    assert [found.id for found in page.jobs] == [job.id]
    assert page.next_cursor is None
    assert (await alone.page(owner_service="shop", idempotency_key="order 8")).jobs == []
    assert (await alone.page(owner_service="shop", idempotency_key="order 7", status=[Status.FAILED])).jobs == []
