"""The worker on a real service: what it runs, and what it does when a job or the database goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec import Raw

from penstock.errors import DatabaseUnavailable
from penstock.failures import Category
from penstock.jobs.job import Job
from penstock.jobs.states import Status
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.work.batched import Batched
from penstock.work.context import JobContext
from penstock.work.executor import ExecutionError, Executor
from penstock.work.executors import Executors
from penstock.workers.worker import Worker
from tests.support.databases import execute
from tests.support.jobs import JobCaller
from tests.support.waiting import until, within


@asynccontextmanager
async def running_worker(caller: JobCaller, executor: Executor, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker for the queue of the tests; stop it at the end."""
    executors = Executors()
    executors.add(executor, task_types=["echo"], model_profiles=["small"])
    settings: dict[str, Any] = {"limit": 8, "lease": timedelta(seconds=60), "grace": timedelta(seconds=5)}
    worker = Worker(
        caller.service, worker_id="worker", executors=executors, tenant=caller.tenant, **(settings | options)
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await within(worker.stop())
        await within(task)


async def finished(caller: JobCaller, job: Job) -> Job:
    return await within(caller.service.of(caller.tenant).wait(job.id, timedelta(seconds=9)))


async def is_in(caller: JobCaller, job: Job, statuses: set[Status]) -> bool:
    return await caller.status(job.id) in statuses


async def echo(job: ClaimedJob, _context: JobContext) -> object:
    return job.input


class Held:
    """An executor that starts and then waits until it is released or interrupted."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.interrupted = asyncio.Event()
        self.context: JobContext | None = None

    async def __call__(self, _job: ClaimedJob, context: JobContext, /) -> object:
        self.context = context
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.interrupted.set()
            raise
        return "done"


async def test_a_job_is_run_and_its_result_stored(caller: JobCaller) -> None:
    async with running_worker(caller, echo):
        job = await finished(caller, await caller.submit(input=b'{"a": [1, 2]}'))
    assert job.status is Status.COMPLETED
    assert job.worker_id == "worker"
    assert job.result == Raw(b'{"a": [1, 2]}')


async def test_jobs_that_wait_already_are_drained_beyond_the_limit(caller: JobCaller) -> None:
    jobs = await caller.submit_many(100)
    async with running_worker(caller, echo, limit=7) as worker:
        for job in jobs:
            assert (await finished(caller, job)).status is Status.COMPLETED
    assert worker.status()["outcomes"] == {"completed": 100}


async def test_a_worker_claims_only_from_the_queues_that_it_serves(caller: JobCaller) -> None:
    other = await caller.submit(task_type="other")
    async with running_worker(caller, echo):
        await finished(caller, await caller.submit())
    assert await caller.status(other.id) is Status.PENDING


async def test_no_more_than_the_limit_runs_at_a_time(caller: JobCaller) -> None:
    running, most = 0, 0

    async def count(_job: ClaimedJob, _context: JobContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1

    jobs = await caller.submit_many(40)
    async with running_worker(caller, count, limit=3):
        for job in jobs:
            await finished(caller, job)
    assert 1 <= most <= 3


@pytest.mark.parametrize("result", [None, 7, "text", ["a"], {"b": None}])
async def test_any_json_value_is_a_result(caller: JobCaller, result: object) -> None:
    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        return result

    async with running_worker(caller, execute):
        job = await finished(caller, await caller.submit())
    assert job.result is not None
    assert job.status is Status.COMPLETED


async def test_an_execution_error_decides_the_category(caller: JobCaller) -> None:
    async def refuse(_job: ClaimedJob, _context: JobContext) -> object:
        raise ExecutionError(Category.BAD_INPUT, "input.x: missing")

    async with running_worker(caller, refuse):
        job = await finished(caller, await caller.submit())
    assert job.status is Status.FAILED
    assert job.error is not None
    assert (job.error.category, job.error.message) == (Category.BAD_INPUT, "input.x: missing")


async def test_any_other_exception_is_internal_and_names_its_class(caller: JobCaller) -> None:
    async def break_down(_job: ClaimedJob, _context: JobContext) -> object:
        raise ZeroDivisionError("by zero\x00" + "x" * 20_000)

    async with running_worker(caller, break_down):
        job = await finished(caller, await caller.submit(max_attempts=1))
    assert job.error is not None
    assert job.error.category is Category.INTERNAL
    assert job.error.message.startswith("ZeroDivisionError: by zerox")
    assert len(job.error.message) <= 2000


@pytest.mark.parametrize("result", [object(), b"{not json", float])
async def test_a_result_that_is_not_json_is_internal(caller: JobCaller, result: object) -> None:
    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        return result

    async with running_worker(caller, execute):
        bad = await finished(caller, await caller.submit(max_attempts=1))
    assert bad.status is Status.FAILED
    assert bad.error is not None
    assert bad.error.category is Category.INTERNAL


async def test_a_result_that_is_too_large_is_internal(caller: JobCaller) -> None:
    async def execute(_job: ClaimedJob, _context: JobContext) -> object:
        return "x" * 1000

    async with running_worker(caller, execute, max_result_bytes=100):
        job = await finished(caller, await caller.submit(max_attempts=1))
    assert job.error is not None
    assert "1002 bytes" in job.error.message


async def test_a_job_that_runs_too_long_is_interrupted_as_timeout(caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held):
        job = await finished(caller, await caller.submit(timeout_seconds=0.05, max_attempts=1))
    assert held.interrupted.is_set()
    assert job.error is not None
    assert (job.error.category, job.error.message) == (Category.TIMEOUT, "ran longer than 0.05 s")


async def test_an_interruption_takes_effect_even_if_the_executor_swallows_it(caller: JobCaller) -> None:
    async def stubborn(_job: ClaimedJob, _context: JobContext) -> object:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "late"

    async with running_worker(caller, stubborn):
        job = await finished(caller, await caller.submit(timeout_seconds=0.05, max_attempts=1))
    assert job.status is Status.FAILED


async def test_cancelling_interrupts_a_running_job_at_once(caller: JobCaller, far_caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held):
        job = await caller.submit()
        await within(held.begun.wait())
        await far_caller.cancel(job.id)  # another process
        await within(held.interrupted.wait(), 2)
        assert (await finished(caller, job)).status is Status.CANCELLED


async def test_a_lost_lease_interrupts_and_reports_nothing(caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held, lease=timedelta(seconds=1)) as worker:
        job = await caller.submit()
        await within(held.begun.wait())
        held.begun.clear()
        await caller.retry(job.id)  # takes the lease away; this worker may claim it again
        await within(held.interrupted.wait())
        held.go.set()
        ended = await finished(caller, job)
    assert ended.status is Status.COMPLETED
    assert ended.attempt == 2
    assert worker.status()["outcomes"] == {"lost": 1, "completed": 1}


async def test_heartbeats_keep_the_lease_and_carry_progress(caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held, lease=timedelta(seconds=1)):
        job = await caller.submit()
        await within(held.begun.wait())
        first = (await caller.get(job.id)).lease_expires_at
        assert held.context is not None
        held.context.progress({"fraction": 0.4})
        async for event in caller.events(job.id):
            if event.type == "job.progress":
                assert msgspec.json.decode(msgspec.json.encode(event.data))["progress"] == {"fraction": 0.4}
                break
        running = await caller.get(job.id)
        assert running.progress == Raw(b'{"fraction":0.4}')
        assert first is not None
        assert running.lease_expires_at is not None
        assert running.lease_expires_at > first
        held.go.set()
        assert (await finished(caller, job)).status is Status.COMPLETED


async def test_stopping_lets_running_jobs_finish(caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held) as worker:
        job = await caller.submit()
        await within(held.begun.wait())
        late = await caller.submit()
        stopping = asyncio.create_task(worker.stop())
        held.go.set()
        await within(stopping)
        assert worker.status()["state"] == "stopped"
    assert await caller.status(job.id) is Status.COMPLETED
    await until(lambda: is_in(caller, late, {Status.COMPLETED, Status.PENDING}), "not left behind as running")


async def test_stopping_hands_back_what_does_not_finish_in_time(caller: JobCaller) -> None:
    held = Held()
    async with running_worker(caller, held, grace=timedelta(0)):
        job = await caller.submit()
        await within(held.begun.wait())
    back = await caller.get(job.id)
    assert back.status is Status.PENDING
    assert [attempt.error.category for attempt in back.attempts] == [Category.SHUTDOWN]


async def test_a_cancelled_worker_hands_its_jobs_back_too(caller: JobCaller) -> None:
    held = Held()
    executors = Executors()
    executors.add(held, task_types=["echo"], model_profiles=["small"])
    worker = Worker(
        caller.service, worker_id="w", executors=executors, limit=1, lease=timedelta(minutes=1), tenant=caller.tenant
    )
    task = asyncio.create_task(worker.run())
    job = await caller.submit()
    await within(held.begun.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert await caller.status(job.id) is Status.PENDING


async def test_stop_is_safe_before_run_and_twice(caller: JobCaller) -> None:
    executors = Executors()
    executors.add(echo, task_types=["echo"], model_profiles=["small"])
    worker = Worker(
        caller.service, worker_id="w", executors=executors, limit=1, lease=timedelta(minutes=1), tenant=caller.tenant
    )
    await within(worker.stop())
    await within(worker.run())
    await within(worker.stop())
    await within(worker.stop())


async def test_a_worker_without_executors_is_healthy_and_waits(caller: JobCaller) -> None:
    worker = Worker(
        caller.service, worker_id="w", executors=Executors(), limit=1, lease=timedelta(minutes=1), tenant=caller.tenant
    )
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    assert worker.healthy
    assert not task.done()
    await within(worker.stop())
    await within(task)


async def reports_of(caller: JobCaller, job: Job) -> list[tuple[str, Any]]:
    """Return a finished job's events after its start, with what executors reported in them."""
    events = [event async for event in caller.events(job.id)]
    data = [msgspec.json.decode(msgspec.json.encode(event.data)) for event in events]
    return [
        (event.type, part.get("chunks") or [line["message"] for line in part.get("lines", ())] or part.get("progress"))
        for event, part in zip(events, data, strict=True)
        if event.type not in {"job.created", "job.started"}
    ]


async def test_the_last_report_is_stored_before_the_result(caller: JobCaller) -> None:
    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        for number in range(1000):
            context.chunk({"n": number})
        context.log("half way")
        context.log("odd\x00\ud83d", "warning")
        context.progress(1)
        return "all"

    async with running_worker(caller, stream):
        job = await finished(caller, await caller.submit())
        events = await reports_of(caller, job)
    assert events == [
        ("job.progress", 1),
        ("job.log", ["half way", "odd?"]),
        ("job.output", [{"n": number} for number in range(1000)]),
        ("job.completed", None),
    ]
    assert (job.progress, job.result) == (Raw(b"1"), Raw(b'"all"'))


async def test_output_arrives_while_the_job_runs_and_in_order(caller: JobCaller) -> None:
    seen = asyncio.Event()

    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        context.chunk("early")
        await seen.wait()
        context.chunk("late")
        return None

    async with running_worker(caller, stream):
        job = await caller.submit()
        live = caller.events(job.id)
        while (event := await within(anext(live))).type != "job.output":
            pass
        assert bytes(event.data["chunks"]) == b'["early"]'
        seen.set()
        job = await finished(caller, job)
        assert await reports_of(caller, job) == [
            ("job.output", ["early"]),
            ("job.output", ["late"]),
            ("job.completed", None),
        ]


@pytest.mark.parametrize("end", ["fails", "is cancelled", "times out", "is handed back"])
async def test_output_is_kept_however_the_attempt_ends(caller: JobCaller, end: str) -> None:
    begun = asyncio.Event()

    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        context.chunk("before")
        begun.set()
        if end == "fails":
            raise ExecutionError(Category.BAD_INPUT, "no")
        try:
            return await asyncio.Event().wait()
        finally:
            context.chunk("last words")
            asyncio.get_running_loop().call_later(0.01, context.chunk, "too late")

    options = {"timeout_seconds": 0.05} if end == "times out" else {}
    async with running_worker(caller, stream, grace=timedelta(0)):
        job = await caller.submit(max_attempts=1, **options)
        await within(begun.wait())
        if end == "is cancelled":
            await caller.cancel(job.id)
        if end != "is handed back":
            await finished(caller, job)
    if end == "is handed back":
        assert await caller.status(job.id) is Status.PENDING
        await caller.cancel(job.id)
    events = await reports_of(caller, job)
    chunks = [chunk for kind, part in events if kind == "job.output" for chunk in part]
    assert chunks == (["before"] if end == "fails" else ["before", "last words"])
    kinds = [kind for kind, _ in events]
    last = {"fails": "job.failed", "is cancelled": "job.cancelled", "times out": "job.failed"}.get(end, "job.retrying")
    assert max(n for n, kind in enumerate(kinds) if kind == "job.output") < kinds.index(last)


async def test_a_lost_attempt_reports_nothing_more(caller: JobCaller) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def stream(job: ClaimedJob, context: JobContext) -> object:
        begun.set()
        if job.attempt == 1:
            with suppress(asyncio.CancelledError):
                await go.wait()
        context.chunk(f"attempt {job.attempt}")
        return job.attempt

    async with running_worker(caller, stream) as worker:
        job = await caller.submit()
        await within(begun.wait())
        await caller.retry(job.id)
        job = await finished(caller, job)
        go.set()
        await until(lambda: worker.status()["outcomes"] == {"lost": 1, "completed": 1}, "the first attempt is lost")
    assert [part for kind, part in await reports_of(caller, job) if kind == "job.output"] == [["attempt 2"]]


async def test_a_stream_that_is_too_fast_is_slowed_and_loses_nothing(caller: JobCaller) -> None:
    most = 0

    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        nonlocal most
        for number in range(60):
            context.chunk(str(number) + "x" * 300_000)
            await context.room()
            most = max(most, context.outbox.parcel().chunks_from)
        return None

    async with running_worker(caller, stream):
        job = await finished(caller, await caller.submit())
        events = [part for kind, part in await reports_of(caller, job) if kind == "job.output"]
    chunks = [chunk.rstrip("x") for part in events for chunk in part]
    assert chunks == [str(number) for number in range(60)]
    assert max(map(len, events)) == 3, "no heartbeat carries more than 1 MiB"
    assert most > 20, "the executor waited for its reports to be stored"


async def test_a_chunk_that_cannot_be_sent_is_the_executors_error_at_once(caller: JobCaller) -> None:
    refusals: list[str] = []

    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        for wrong in (b"{cut", b"1 2", b"", b'"\xff"', Raw(b"[" * 100_000), "x" * 2**20):
            with pytest.raises(ValueError, match=r"."):
                context.chunk(wrong)
            refusals.append("refused")
        for wrong in (b"{cut", "x" * 2**16):
            with pytest.raises(ValueError, match=r"."):
                context.progress(wrong)
        context.chunk(Raw(b'{"a":  1}'))
        return None

    async with running_worker(caller, stream):
        job = await finished(caller, await caller.submit())
    assert len(refusals) == 6
    assert await reports_of(caller, job) == [("job.output", [{"a": 1}]), ("job.completed", None)]


async def test_output_that_the_service_refuses_fails_the_job_and_disturbs_no_other(caller: JobCaller) -> None:
    """The context refuses invalid output; if the database refuses it instead, the job must not seem complete."""

    async def stream(job: ClaimedJob, context: JobContext) -> object:
        if bytes(job.input) == b"1":
            context.outbox.put_chunk(Raw(b"{cut"))
        context.chunk("fine")
        return "done"

    async with running_worker(caller, stream):
        bad, good = await caller.submit(input=b"1", max_attempts=1), await caller.submit(input=b"2")
        bad, good = await finished(caller, bad), await finished(caller, good)
    assert good.status is Status.COMPLETED
    assert bad.error is not None
    assert bad.error.category is Category.INTERNAL
    assert bad.error.message.startswith("the job's output was refused: InvalidInput: chunks: the database refuses it")


async def test_output_waits_for_an_unavailable_database(alone: JobCaller, fresh: Database, database_url: str) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def stream(_job: ClaimedJob, context: JobContext) -> object:
        begun.set()
        await go.wait()
        for number in range(100):
            context.chunk(number)
        return "done"

    async with running_worker(alone, stream):
        job = await alone.submit()
        await within(begun.wait())
        await without_database(database_url, go)
        await until(lambda: reached(alone), "the connections of this process have been opened again")
        job = await finished(alone, job)
        assert job.status is Status.COMPLETED
        assert await reports_of(alone, job) == [("job.output", list(range(100))), ("job.completed", None)]


async def test_a_worker_outlives_its_database_connections(alone: JobCaller, fresh: Database, database_url: str) -> None:
    held = Held()
    async with running_worker(alone, held, lease=timedelta(seconds=1)) as worker:
        job = await alone.submit()
        await within(held.begun.wait())
        await without_database(database_url, held.go)
        await until(lambda: reached(alone), "the connections of this process have been opened again")
        assert (await finished(alone, job)).status is Status.COMPLETED
        held.begun.clear()
        again = await alone.submit()
        assert (await finished(alone, again)).status is Status.COMPLETED
        assert worker.healthy


async def reached(caller: JobCaller) -> bool:
    """Return whether all the caller's connections work: a cut one is noticed only when it is used."""
    try:
        await asyncio.gather(*(caller.service.of(caller.tenant).stats() for _ in range(16)))
    except DatabaseUnavailable:
        return False
    return True


async def without_database(url: str, go: asyncio.Event) -> None:
    """Refuse and cut all connections to this database, let the job finish meanwhile, then let them in again."""
    name = url.split("?", maxsplit=1)[0].rpartition("/")[2]
    admin = await asyncpg.connect(url, database="postgres")
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        go.set()
        for _ in range(50):
            await asyncio.sleep(0)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()


async def test_batched_jobs_run_together_and_fail_alone(caller: JobCaller) -> None:
    sizes: list[int] = []

    async def handle(jobs: Sequence[ClaimedJob]) -> Sequence[object]:
        sizes.append(len(jobs))
        return [ExecutionError("bad_input", "odd one") if bytes(job.input) == b"13" else job.input for job in jobs]

    jobs = [await caller.submit(input=str(number).encode()) for number in range(20)]
    async with running_worker(caller, Batched(handle, size=8), limit=16):
        ended = [await finished(caller, job) for job in jobs]
    assert [job.status for job in ended].count(Status.COMPLETED) == 19
    assert ended[13].error is not None
    assert ended[13].error.message == "odd one"
    assert max(sizes) == 8
    assert sum(sizes) == 20


async def test_a_batch_that_breaks_fails_all_its_jobs(caller: JobCaller) -> None:
    async def handle(_jobs: Sequence[ClaimedJob]) -> Sequence[object]:
        return []

    async with running_worker(caller, Batched(handle, size=8)):
        job = await finished(caller, await caller.submit(max_attempts=1))
    assert job.error is not None
    assert "0 results for 1 jobs" in job.error.message


def test_one_queue_has_one_executor() -> None:
    executors = Executors()
    executors.add(echo, task_types=["a", "b"], model_profiles=["x"])
    assert executors.find("b", "x") is echo
    assert executors.find("b", "y") is None
    with pytest.raises(ValueError, match=r"\(b, x\) has an executor already"):
        executors.add(echo, task_types=["b"], model_profiles=["x"])


@asynccontextmanager
async def idle(caller: JobCaller, **options: Any) -> AsyncIterator[tuple[Worker, Executors]]:
    """Run a worker that serves nothing yet; stop it at the end."""
    executors = Executors()
    settings: dict[str, Any] = {"limit": 8, "lease": timedelta(seconds=60), "grace": timedelta(seconds=5)}
    worker = Worker(
        caller.service, worker_id="worker", executors=executors, tenant=caller.tenant, **(settings | options)
    )
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    try:
        yield worker, executors
    finally:
        await within(worker.stop())
        await within(task)


async def test_an_executor_that_is_added_to_a_running_worker_gets_jobs_at_once(caller: JobCaller) -> None:
    waiting = await caller.submit()
    async with idle(caller, poll=timedelta(seconds=30)) as (worker, executors):
        assert worker.ready
        assert worker.status()["executors"] == []
        executors.add(echo, task_types=["echo"], model_profiles=["small"])
        assert (await finished(caller, waiting)).status is Status.COMPLETED
        assert (await finished(caller, await caller.submit())).status is Status.COMPLETED
        other = await caller.submit(task_type="other")
        executors.add(echo, task_types=["other"], model_profiles=["small"])
        assert (await finished(caller, other)).status is Status.COMPLETED
        assert worker.ready
        assert worker.status()["outcomes"] == {"completed": 3}


async def test_an_executor_that_is_removed_finishes_what_it_runs_and_claims_no_more(caller: JobCaller) -> None:
    held = Held()
    async with idle(caller, grace=timedelta(0)) as (worker, executors):
        offer = executors.add(held, task_types=["echo"], model_profiles=["small"])
        job = await caller.submit()
        await within(held.begun.wait())
        executors.remove(offer)
        executors.remove(offer)
        await until(lambda: _draining(worker) == [True], "the engine drains")
        late = await caller.submit()
        assert worker.ready
        assert worker.healthy
        held.go.set()
        ended = await finished(caller, job)
        await until(lambda: worker.status()["executors"] == [], "the engine is gone")
        assert worker.status()["outcomes"] == {"completed": 1}
        assert worker.status()["claimed"] == 1
    assert (ended.status, ended.attempts) == (Status.COMPLETED, [])
    assert (await caller.get(late.id)).attempt == 0


async def test_a_queue_can_get_a_new_executor_while_the_old_one_still_runs(caller: JobCaller) -> None:
    old = Held()
    async with idle(caller) as (worker, executors):
        offer = executors.add(old, task_types=["echo"], model_profiles=["small"])
        first = await caller.submit()
        await within(old.begun.wait())
        executors.remove(offer)
        executors.add(echo, task_types=["echo"], model_profiles=["small"])
        second = await finished(caller, await caller.submit(input=b"2"))
        assert second.result == Raw(b"2")
        assert sorted(_draining(worker)) == [False, True]
        old.go.set()
        assert (await finished(caller, first)).result == Raw(b'"done"')


async def test_stopping_drains_withdrawn_executors_too(caller: JobCaller) -> None:
    one, other = Held(), Held()
    async with idle(caller, grace=timedelta(milliseconds=50)) as (_, executors):
        offer = executors.add(one, task_types=["echo"], model_profiles=["small"])
        executors.add(other, task_types=["other"], model_profiles=["small"])
        jobs = [await caller.submit(), await caller.submit(task_type="other")]
        await within(one.begun.wait())
        await within(other.begun.wait())
        executors.remove(offer)
    for job in jobs:
        back = await caller.get(job.id)
        assert back.status is Status.PENDING
        assert [attempt.error.category for attempt in back.attempts] == [Category.SHUTDOWN]


async def test_each_executor_may_have_a_limit_of_its_own(caller: JobCaller) -> None:
    narrow, wide = Held(), Held()
    async with idle(caller, limit=4, grace=timedelta(0)) as (worker, executors):
        executors.add(narrow, task_types=["narrow"], model_profiles=["small"], limit=1)
        executors.add(wide, task_types=["wide"], model_profiles=["small"])
        await caller.submit_many(5, task_type="narrow")
        await until(lambda: _running(worker) == [1, 0], "the narrow one runs as many as it may")
        await caller.submit_many(5, task_type="wide")
        await until(lambda: _running(worker) == [1, 3], "each runs as many as it may")
        executors_told = worker.status()["executors"]
        assert isinstance(executors_told, list)
        assert [one["limit"] for one in executors_told] == [1, 4]
    with pytest.raises(ValueError, match="limit is 0"):
        Executors().add(echo, task_types=["a"], model_profiles=["x"], limit=0)


async def test_offers_that_come_and_go_quickly_leave_nothing_behind(caller: JobCaller) -> None:
    async with idle(caller) as (worker, executors):
        for _ in range(20):
            offer = executors.add(echo, task_types=["echo"], model_profiles=["small"])
            await asyncio.sleep(0)
            executors.remove(offer)
        job = await caller.submit()
        await until(lambda: worker.status()["executors"] == [], "no engine is left")

        async def has_no_lease() -> bool:  # a claim that was on its way when its offer went is handed back
            return await caller.status(job.id) is Status.PENDING

        await until(has_no_lease, "no lease is held")
        executors.add(echo, task_types=["echo"], model_profiles=["small"])
        assert (await finished(caller, job)).status is Status.COMPLETED


def _draining(worker: Worker) -> list[bool]:
    executors = worker.status()["executors"]
    assert isinstance(executors, list)
    return [one["draining"] for one in executors]


def _running(worker: Worker) -> list[int]:
    executors = worker.status()["executors"]
    assert isinstance(executors, list)
    return [one["running_count"] for one in executors]


async def test_the_worker_waits_for_a_missing_schema(alone: JobCaller, fresh: Database) -> None:
    await execute(fresh, "ALTER SCHEMA penstock RENAME TO not_yet")
    async with running_worker(alone, echo) as worker:
        await asyncio.sleep(0)
        await execute(fresh, "ALTER SCHEMA not_yet RENAME TO penstock")
        assert (await finished(alone, await alone.submit())).status is Status.COMPLETED
        assert worker.healthy


async def test_a_worker_keeps_to_its_limit_over_all_its_queues(caller: JobCaller) -> None:
    """Three queues are full; two jobs run at a time, and each queue has its turn."""
    running, most, begun = 0, 0, []
    permits = asyncio.Semaphore(0)

    async def count(job: ClaimedJob, _context: JobContext) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.append(job.task_type)
        await permits.acquire()
        running -= 1
        return None

    async def until_begun(number: int) -> None:
        await until(lambda: len(begun) == number, "another begins when one ends")

    executors = Executors()
    for name in ("one", "two", "three"):
        executors.add(count, task_types=[name], model_profiles=["small"], limit=5 if name == "one" else None)
    jobs = [job for name in ("one", "two", "three") for job in await caller.submit_many(6, task_type=name)]
    worker = Worker(
        caller.service, worker_id="w", executors=executors, tenant=caller.tenant, limit=2, lease=timedelta(seconds=60)
    )
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: running == 2, "two jobs run")
        assert await _leased(caller) == 2, "and no more are held"
        for released in range(1, 7):
            permits.release()
            await until_begun(2 + released)
        assert sorted(set(begun)) == ["one", "three", "two"]
        for _ in range(len(jobs)):
            permits.release()
        for job in jobs:
            assert (await finished(caller, job)).status is Status.COMPLETED
    finally:
        await within(worker.stop())
        await within(task)
    assert most == 2


async def _leased(caller: JobCaller) -> int:
    return len((await caller.page(status=[Status.RUNNING])).jobs)
