"""Runners of attempts: when each attempt starts, in which task, and the state that one leaves for the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

from penstock.failures import Category
from penstock.jobs.work import ClaimedJob, Failure, JobCompletion
from penstock.work.attempt import Attempt
from penstock.work.context import JobContext
from penstock.work.executor import Executor
from penstock.work.runners import Runners
from penstock.work.source import Duty
from tests.support.attempts import claimed_job
from tests.support.waiting import until

mark: ContextVar[str] = ContextVar("mark", default="clean")


class Stage:
    """Runners with attempts, and the order in which the attempts ended."""

    def __init__(self, executor: Executor, count: int) -> None:
        self.ended: list[Attempt] = []
        self.attempts = [Attempt(claimed_job(), Duty(worker_id="w"), 0.0, lambda: None) for _ in range(count)]
        self.runners = Runners(executor, self.ended.append)

    async def run(self) -> Sequence[Attempt]:
        self.runners.begin(self.attempts)
        await until(lambda: len(self.ended) == len(self.attempts), "all attempts have ended")
        return self.ended


async def test_burst_of_quick_jobs_needs_few_tasks() -> None:
    tasks: set[asyncio.Task[object] | None] = set()

    async def quick(_job: ClaimedJob, _context: JobContext) -> object:
        tasks.add(asyncio.current_task())
        return 1

    stage = Stage(quick, 500)
    stage.runners._quick = True  # as after the first burst
    assert await stage.run() == stage.attempts
    assert len(tasks) < 10
    assert all(isinstance(attempt.report, JobCompletion) for attempt in stage.attempts)


async def test_all_start_at_once_however_long_each_waits() -> None:
    begun = 0
    go = asyncio.Event()

    async def wait(_job: ClaimedJob, _context: JobContext) -> object:
        nonlocal begun
        begun += 1
        await go.wait()
        return 1

    for known_quick, turns in ((False, 1), (True, 3)):
        begun = 0
        go.clear()
        stage = Stage(wait, 100)
        stage.runners._quick = known_quick
        stage.runners.begin(stage.attempts)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert begun == 100
        go.set()
        await until(lambda stage=stage: len(stage.ended) == 100, "all attempts have ended")  # type: ignore[misc]


async def test_context_variables_of_one_job_are_not_seen_by_the_next() -> None:
    seen: list[str] = []

    async def marking(_job: ClaimedJob, _context: JobContext) -> object:
        seen.append(mark.get())
        mark.set("used")
        return 1

    stage = Stage(marking, 5)
    stage.runners._quick = True
    await stage.run()
    assert seen == ["clean"] * 5


async def test_interrupted_attempt_leaves_the_next_one_alone() -> None:
    """This holds even if its executor swallows the cancellation."""
    first = True
    begun = asyncio.Event()

    async def stubborn(_job: ClaimedJob, _context: JobContext) -> object:
        nonlocal first
        if first:
            first = False
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "too late"
        await asyncio.sleep(0)
        return "in time"

    stage = Stage(stubborn, 3)
    running = asyncio.create_task(stage.run())
    await begun.wait()
    stage.attempts[0].interrupt(Category.CANCELLED)
    await running
    reports = [attempt.report for attempt in stage.attempts]
    assert isinstance(reports[0], Failure)
    assert [bytes(report.result) for report in reports[1:] if isinstance(report, JobCompletion)] == [b'"in time"'] * 2


async def test_other_work_gets_its_turn_while_quick_jobs_run() -> None:
    done = 0
    seen: list[int] = []

    async def busy(_job: ClaimedJob, _context: JobContext) -> object:
        nonlocal done
        end = asyncio.get_running_loop().time() + 0.001
        while asyncio.get_running_loop().time() < end:  # computes
            pass
        done += 1
        return 1

    stage = Stage(busy, 30)
    stage.runners._quick = True
    running = asyncio.create_task(stage.run())
    while not running.done():
        await asyncio.sleep(0)
        seen.append(done)
    assert any(0 < count < 30 for count in seen)
