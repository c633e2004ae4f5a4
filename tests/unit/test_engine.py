"""An engine whose source of jobs is unavailable or refuses its reports. No database is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog

from penstock.errors import CallerError, InvalidInput, ServiceError, StaleEpoch
from penstock.failures import Category
from penstock.jobs.fields import MAX_RETRY_AFTER_SECONDS
from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimedJob, ClaimRequest, Failure, HeartbeatResult, JobCompletion, JobHeartbeat
from penstock.work.context import JobContext
from penstock.work.engine import Engine
from penstock.work.executor import ExecutionError, Executor
from penstock.work.link import Link
from penstock.work.source import Duty, Report
from tests.support.attempts import claimed_job
from tests.support.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAID = Usage(provider="llm", model="m", status="completed", prompt_tokens=3)


class Source:
    """A source of one job that may be unavailable and may refuse reports."""

    def __init__(self) -> None:
        self.jobs = [claimed_job()]
        self.reported: list[Report] = []
        self.away = False
        self.refusals: list[Exception] = []
        self.tried = 0

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
        if not self.jobs:
            await asyncio.sleep(request.wait_seconds)
            return []
        return [self.jobs.pop()]

    async def heartbeat(self, tenant: str, beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatResult | CallerError]:
        return [HeartbeatResult(id=beat.id, lease_expires_at=NOW, cancel_requested=False) for beat in beats]

    async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[object]:
        for completion in completions:
            self._take(completion)
        return [None for _ in completions]

    async def fail(self, tenant: str, _job_id: UUID, failure: Failure) -> object:
        self._take(failure)
        return None

    def _take(self, report: Report) -> None:
        self.tried += 1
        if self.away:
            raise ServiceError("away")
        if self.refusals:
            raise self.refusals.pop(0)
        self.reported.append(report)


def hanging() -> tuple[asyncio.Event, Executor]:
    """Return an event and an executor that sets it at its start and never returns by itself."""
    begun = asyncio.Event()

    async def hang(_job: ClaimedJob, _context: JobContext) -> object:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    return begun, hang


def engine(source: Source, executor: Executor, **duty: Any) -> Engine:
    stated: dict[str, Any] = {"grace": timedelta(0)} | duty
    return Engine(source, executor, Duty(worker_id="w", **stated), log=structlog.get_logger("tests"))


async def run_until_reported(source: Source, executor: Executor) -> Report:
    working = engine(source, executor)
    running = asyncio.create_task(working.run())
    await until(lambda: bool(source.reported), "the job's end is reported")
    await working.stop()
    await running
    (report,) = source.reported
    return report


async def test_a_result_that_waits_for_the_service_outlives_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job must not run again only because the service was unavailable when the worker had to stop."""
    monkeypatch.setattr("penstock.work.engine._HAND_BACK", 0.01)
    source = Source()
    source.away = True

    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        return "paid"

    working = engine(source, execute)

    def back_at_the_last_moment(event: str, **_: object) -> None:
        source.away = source.away and event != "attempt_abandoned"

    monkeypatch.setattr(working, "_log", SimpleNamespace(warning=back_at_the_last_moment, debug=lambda *_, **__: None))
    running = asyncio.create_task(working.run())
    await until(lambda: source.tried > 0, "the result was handed in once")
    await working.stop()
    await running
    assert [type(report) for report in source.reported] == [JobCompletion]


@pytest.mark.parametrize(("tenant", "logged"), [("default", {}), ("acme", {"tenant": "acme"})])
async def test_the_log_of_an_attempt_names_its_tenant(tenant: str, logged: dict[str, str]) -> None:
    source = Source()
    source.jobs = [msgspec.structs.replace(claimed_job(), tenant=tenant)]

    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        raise ExecutionError(Category.BAD_INPUT, "no")

    log = structlog.testing.CapturingLogger()
    working = Engine(source, execute, Duty(worker_id="w", grace=timedelta(0)), log=log)
    running = asyncio.create_task(working.run())
    await until(lambda: bool(source.reported), "the job's end is reported")
    await working.stop()
    await running
    (line,) = [call.kwargs for call in log.calls if call.args == ("attempt_failed",)]
    assert {name: value for name, value in line.items() if name == "tenant"} == logged


async def test_the_job_of_a_hanging_executor_is_handed_back() -> None:
    source = Source()
    begun, hang = hanging()
    working = engine(source, hang)
    running = asyncio.create_task(working.run())
    await begun.wait()
    await working.stop()
    await running
    (report,) = source.reported
    assert isinstance(report, Failure)
    assert report.category is Category.SHUTDOWN


async def test_a_wait_too_long_to_be_stored_is_shortened() -> None:
    async def much_later(_job: ClaimedJob, _context: JobContext) -> object:
        raise ExecutionError(Category.RATE_LIMITED, "later", retry_after=timedelta(days=400_000))

    report = await run_until_reported(Source(), much_later)
    assert isinstance(report, Failure)
    assert report.retry_after_seconds == MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_report_that_is_refused_becomes_a_simpler_one(refused: int) -> None:
    """It is simplified as long as possible: a job without a report is lost for the length of its lease."""
    source = Source()
    source.refusals = [InvalidInput.of("result", "is odd") for _ in range(refused)]

    async def execute(_job: ClaimedJob, context: JobContext) -> object:
        context.used(PAID)
        return "odd"

    report = await run_until_reported(source, execute)
    assert isinstance(report, Failure)
    assert report.category is Category.INTERNAL
    if refused == 1:
        assert report.message == "the result was refused: InvalidInput: result: is odd"
        assert report.usage == [PAID]
    else:
        assert (report.message, report.usage) == ("", [])


async def test_a_report_that_is_always_refused_is_given_up_and_the_worker_continues() -> None:
    source = Source()
    source.refusals = [InvalidInput.of("message", "is odd")] * 2
    source.jobs.append(msgspec.structs.replace(claimed_job(), epoch=claimed_job().epoch + 1))
    count = 0

    async def fail_once(_job: ClaimedJob, _context: JobContext) -> object:
        nonlocal count
        count += 1
        if count == 1:
            raise ExecutionError(Category.BAD_INPUT, "no")
        return "yes"

    report = await run_until_reported(source, fail_once)
    assert isinstance(report, JobCompletion)
    assert source.tried == 3


async def test_results_are_reported_together_and_each_gets_its_own_reply() -> None:
    """One result is stored, one is stale, and one is refused and reported again as a failure."""
    calls: list[int] = []

    class Three(Source):
        def __init__(self) -> None:
            super().__init__()
            self.jobs = [msgspec.structs.replace(claimed_job(), epoch=epoch) for epoch in (1, 2, 3)]

        async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
            jobs, self.jobs = self.jobs, []
            if not jobs:
                await asyncio.sleep(request.wait_seconds)
            return jobs

        async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[object]:
            calls.append(len(completions))
            replies = {1: None, 2: StaleEpoch("gone"), 3: InvalidInput.of("result", "is odd")}
            return [replies[completion.epoch] for completion in completions]

    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        return "done"

    source = Three()
    working = engine(source, execute, limit=3)
    running = asyncio.create_task(working.run())
    await until(lambda: sum(working.outcomes.values()) == 3, "all three have ended")
    await working.stop()
    await running
    assert working.outcomes == {"completed": 1, "lost": 1, "internal": 1}
    assert calls == [3, 1]
    (report,) = source.reported
    assert isinstance(report, Failure)
    assert report.message == "the result was refused: InvalidInput: result: is odd"


async def test_next_job_starts_while_a_report_is_in_flight() -> None:
    stored = asyncio.Event()

    class Slow(Source):
        def __init__(self) -> None:
            super().__init__()
            self.jobs = [msgspec.structs.replace(claimed_job(), epoch=epoch) for epoch in (1, 2)]

        async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[object]:
            await stored.wait()
            return await super().complete(tenant, completions)

    begun: list[int] = []

    async def execute(job: ClaimedJob, _context: JobContext) -> object:
        begun.append(job.epoch)
        return "done"

    source = Slow()
    working = engine(source, execute, limit=1, grace=timedelta(seconds=30))
    running = asyncio.create_task(working.run())
    await until(lambda: len(begun) == 2, "the second job began")
    assert not source.reported
    stored.set()
    await working.stop()
    await running
    assert len(source.reported) == 2


async def test_jobs_that_are_held_when_everything_is_cancelled_are_handed_back() -> None:
    """``asyncio.run`` ends a program in this way when its worker runs beside other tasks."""
    source = Source()
    begun, hang = hanging()
    ours = {asyncio.current_task()}
    running = asyncio.create_task(engine(source, hang).run())
    await begun.wait()
    for task in asyncio.all_tasks() - ours:
        task.cancel()
    await asyncio.wait([running])
    (report,) = source.reported
    assert isinstance(report, Failure)
    assert report.category is Category.SHUTDOWN


async def test_heartbeats_resume_well_within_a_short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage every lease gets its full length again, however short that is."""
    pauses: list[float] = []

    async def back_off(_link: Link, _pause: float, _event: str, _error: Exception, *, longest: float = 99.0) -> float:
        pauses.append(longest)
        await asyncio.sleep(0)
        return 0.0

    async def away(_source: Source, _beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatResult | CallerError]:
        raise ServiceError("away")

    async def hang(_job: ClaimedJob, _context: JobContext) -> object:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Link, "back_off", back_off)
    monkeypatch.setattr(Source, "heartbeat", away)
    working = engine(Source(), hang, lease=timedelta(seconds=1))
    running = asyncio.create_task(working.run())
    await until(lambda: len(pauses) > 3, "it keeps trying")
    await working.stop()
    await running
    assert max(pauses) < 0.2


def test_after_a_hundred_calls_the_use_of_further_ones_is_added_to_earlier_ones() -> None:
    context = JobContext(lambda: None)
    for number in range(150):
        context.used(Usage(provider="ab"[number % 2], model="m", prompt_tokens=number, duration_us=2))
    context.used(Usage(provider="other", model="m", prompt_tokens=1))
    assert len(context.usage) == 100
    for provider, first in (("a", 0), ("b", 1)):
        found = [one for one in context.usage if one.provider == provider]
        assert sum(one.prompt_tokens for one in found) == sum(range(first, 150, 2))
        assert sum(one.duration_us or 0 for one in found) == 150
    assert context.outbox.waiting, "a call that nothing can take is in the job's log"
