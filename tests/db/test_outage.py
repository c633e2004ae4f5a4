"""Outages of the database: calls report them, nothing hangs, and everything continues by itself."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from msgspec import Raw

from penstock.errors import DatabaseUnavailable, PenstockError
from penstock.events import store as event_log
from penstock.events.positions import Positions
from penstock.jobs.announcements import CANCELLED
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.jobs.work import HeartbeatResult, JobCompletion, JobHeartbeat
from penstock.postgres.pool import Database
from tests.support.database_proxy import DatabaseProxy, database_over
from tests.support.databases import own_tenant, query, tables_holding
from tests.support.jobs import JobCaller, submission, take
from tests.support.waiting import succeeds, until, within


@asynccontextmanager
async def _service_over(line: DatabaseProxy, url: str) -> AsyncIterator[JobService]:
    """Start a service that reaches the database by this line."""
    database = database_over(line, url)
    service = JobService(database)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await database.close()


@pytest.fixture
async def caller(line: DatabaseProxy, fresh: Database) -> AsyncIterator[JobCaller]:
    """The calls over the line."""
    async with _service_over(line, fresh.url) as service:
        await within(service.wakeups.listening.wait())
        yield JobCaller(service, await own_tenant(fresh))


async def _survives(work: Callable[[], Awaitable[object]]) -> None:
    """Repeat the work until it succeeds; until then it may only raise DatabaseUnavailable."""

    async def succeeded() -> bool:
        try:
            await work()
        except DatabaseUnavailable:
            return False
        return True

    await until(succeeded, "the service recovered")


async def test_every_call_reports_an_unavailable_database_and_works_again_afterwards(
    line: DatabaseProxy, caller: JobCaller
) -> None:
    await caller.submit_many(3)
    running = await caller.claim_one()
    failing = await caller.claim_one()
    service, tenant = caller.service, caller.tenant
    await line.cut()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "submit": caller.submit,
        "submit of a new queue": lambda: caller.submit(task_type="new"),
        "submit with a key": lambda: caller.submit(idempotency_key="k"),
        "submit many": lambda: caller.submit_many(2),
        "get": lambda: caller.get(running.id),
        "wait": lambda: service.of(tenant).wait(running.id, timedelta(seconds=1)),
        "list": caller.page,
        "claim": lambda: caller.claim(1, task_types=["none"]),
        "heartbeat": lambda: caller.beat(running),
        "complete": lambda: caller.complete(running),
        "fail": lambda: caller.fail(failing),
        "stats": lambda: service.of(tenant).stats(),
    }
    for name, call in calls.items():
        try:
            await within(call())
        except DatabaseUnavailable:
            continue
        pytest.fail(f"{name} did not report that the database is unavailable")
    await line.mend()
    for call in calls.values():
        await _survives(call)
    assert await caller.status(running.id) is Status.COMPLETED


async def test_a_service_may_start_before_its_database(line: DatabaseProxy, fresh: Database) -> None:
    await line.cut()
    async with _service_over(line, fresh.url) as service:
        caller = JobCaller(service, await own_tenant(fresh))
        with pytest.raises(DatabaseUnavailable):
            await within(caller.submit())
        await line.mend()
        await _survives(caller.submit)
        await within(service.wakeups.listening.wait())


async def test_a_pass_that_breaks_off_gives_up_no_event_that_may_still_come(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    database = database_over(line, fresh.url)
    positions = Positions(database)
    async with fresh.acquire() as writer, writer.transaction():
        await event_log.record(writer, caller.tenant, "late", kind="test.late", data=Raw(b"{}"))
        await caller.submit()
        line.lose_response_to(b"position_events")
        with pytest.raises(DatabaseUnavailable):
            await within(positions.once())
        for _ in range(2):
            await _survives(positions.once)
    await _survives(positions.once)
    assert {event.subject for event in await take(caller.events(after="0-0-0"), 2)} >= {"late"}
    await database.close()


async def test_connections_that_the_server_ends_are_replaced(caller: JobCaller, fresh: Database) -> None:
    await asyncio.gather(*(caller.submit() for _ in range(20)))
    await query(
        fresh,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()",
    )
    await _survives(caller.submit)
    await _survives(lambda: caller.claim(100))


async def test_a_server_that_is_no_longer_the_primary_counts_as_unavailable(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    """NOTIFY is refused as well; hints go out again afterwards."""
    (name,) = (await query(fresh, "SELECT current_database()"))[0]
    await query(fresh, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await line.cut()
    await line.mend()
    try:
        await _survives(lambda: caller.service.of(caller.tenant).stats())
        with pytest.raises(DatabaseUnavailable):
            await within(caller.submit())
        caller.service.wakeups.announce(CANCELLED)
    finally:
        async with fresh.acquire() as connection:
            await connection.execute(
                f'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; ALTER DATABASE "{name}" '
                "RESET default_transaction_read_only"
            )
    await line.cut()
    await line.mend()
    async with _service_over(line, fresh.url) as other:
        waiting = asyncio.create_task(JobCaller(other, caller.tenant).claim(1, wait_seconds=30))
        await until(lambda: bool(other._shared.claims._waiters), "a claim waits")
        await within(other.wakeups.listening.wait())
        await _survives(caller.submit)
        assert len(await within(waiting)) == 1


async def test_under_load_an_outage_loses_no_job_whose_submission_was_confirmed(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    confirmed: set[object] = set()
    stopping = asyncio.Event()

    async def submitter() -> None:
        while not stopping.is_set():
            try:
                confirmed.update([(await caller.submit()).id])
            except DatabaseUnavailable:
                await asyncio.sleep(0)

    submitters = [asyncio.create_task(submitter()) for _ in range(16)]
    for _ in range(3):
        await _grows(confirmed, by=100)
        await line.cut()
        await line.mend()
    await _grows(confirmed, by=100)
    stopping.set()
    await asyncio.gather(*submitters)
    stored = {job_id for (job_id,) in await query(fresh, "SELECT id FROM job")}
    assert confirmed <= stored
    ((ready,),) = await query(fresh, "SELECT count(*) FROM ready")
    assert ready == len(stored)


async def test_a_cut_between_commit_and_response_and_a_retry_with_the_same_key_create_one_job(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    await caller.submit()  # creates the names
    line.lose_response_to(b"COMMIT")
    with pytest.raises(DatabaseUnavailable):
        await within(caller.submit(idempotency_key="k"))
    assert line.lost.is_set()
    result = await within(caller.service.of(caller.tenant).submit(submission(idempotency_key="k")))
    assert not result.created
    assert await query(fresh, "SELECT id FROM job WHERE idempotency_key = 'k'") == [(result.job.id,)]


async def test_a_batch_cut_between_commit_and_response_and_sent_again_creates_its_jobs_once(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    wanted = [submission(idempotency_key=f"k{number}") for number in range(50)]
    line.lose_response_to(b"COMMIT")
    with pytest.raises(DatabaseUnavailable):
        await within(caller.service.of(caller.tenant).submit_many(wanted))
    results = await within(caller.service.of(caller.tenant).submit_many(wanted))
    assert not any(result.created for result in results)
    assert await query(fresh, "SELECT count(*) FROM job") == [(50,)]


async def test_a_completion_whose_response_was_lost_may_be_sent_again(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    job = await caller.submit_and_claim()
    line.lose_response_to(b"the one")
    with pytest.raises(DatabaseUnavailable):
        await within(caller.complete(job, b'"the one"'))

    async def committed() -> bool:
        return await tables_holding(fresh, job.id) == ["done"]

    await until(committed, "the server has committed")
    assert (await within(caller.complete(job, b'"the one"'))).status is Status.COMPLETED
    assert (await caller.service.of(caller.tenant).stats()).totals.completed == 1


async def test_a_waiting_claim_is_served_after_an_outage(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    async def persistent() -> object:
        while True:
            if jobs := await succeeds(lambda: caller.claim(1, wait_seconds=30), unless=DatabaseUnavailable):
                return jobs[0].id

    waiting = asyncio.create_task(persistent())
    await until(lambda: bool(caller.service._shared.claims._waiters), "a claim waits")
    await line.cut()
    await line.mend()
    async with _service_over(line, fresh.url) as other:
        made: list[object] = []

        async def submit() -> None:
            made.append((await JobCaller(other, caller.tenant).submit()).id)

        await _survives(submit)
        assert await within(waiting) == made[0]


async def test_an_open_event_stream_continues_after_an_outage_without_a_gap_or_a_repetition(
    line: DatabaseProxy, caller: JobCaller, fresh: Database
) -> None:
    mark = await caller.submit()
    (start,) = await take(caller.events(mark.id), 1)
    stream = caller.events(after=start.id)
    first = await caller.submit()
    received = [event.subject for event in await take(stream, 1)]
    made = [first.id]
    await line.cut()
    async with _service_over(line, fresh.url) as other:
        far = JobCaller(other, caller.tenant)
        await line.mend()
        await _survives(far.submit)
        made += [job_id for (job_id,) in await query(fresh, "SELECT id FROM job ORDER BY id")][2:]
        made += [(await far.submit()).id for _ in range(5)]
        received += [event.subject for event in await take(stream, len(made) - 1)]
    assert received == made


async def test_a_worker_keeps_its_lease_through_an_outage(line: DatabaseProxy, caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await line.cut()
    with pytest.raises(DatabaseUnavailable):
        await within(caller.beat(job))
    await line.mend()
    results: list[object] = []

    async def beat() -> None:
        results.append(await caller.beat(job))

    await _survives(beat)
    assert isinstance(results[-1], HeartbeatResult)


async def test_an_unstable_line_causes_no_errors_but_ours(line: DatabaseProxy, caller: JobCaller) -> None:
    """The line is cut in the middle of everything, again and again."""
    errors: list[BaseException] = []
    stopping = asyncio.Event()

    async def user() -> None:
        while not stopping.is_set():
            try:
                await caller.submit(idempotency_key=None)
                for job in await caller.claim(5):
                    await caller.beat(job)
                    await caller.complete(job)
                await caller.page(limit=3)
            except PenstockError:
                await asyncio.sleep(0)
            except Exception as error:  # noqa: BLE001  # what the test is looking for
                errors.append(error)

    users = [asyncio.create_task(user()) for _ in range(6)]
    for _ in range(15):
        goal = await _completed(caller) + 1

        async def work_goes_on(goal: int = goal) -> bool:
            return await _completed(caller) >= goal

        await until(work_goes_on, "more completed jobs")
        await line.cut()
        await line.mend()
    stopping.set()
    await within(asyncio.gather(*users))
    assert errors == []


async def _completed(caller: JobCaller) -> int:
    while True:
        try:
            return (await caller.service.of(caller.tenant).stats()).totals.completed
        except DatabaseUnavailable:
            await asyncio.sleep(0)


async def _grows(confirmed: set[object], *, by: int) -> None:
    goal = len(confirmed) + by
    await until(lambda: len(confirmed) >= goal, f"{by} more jobs")


async def test_an_outage_leaves_no_unhandled_error_behind(line: DatabaseProxy, caller: JobCaller) -> None:
    """Cuts under batches, streams, waits and wake-ups: asyncio has nothing to report afterwards."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    stopping = asyncio.Event()
    try:
        users = [asyncio.create_task(_use(caller, stopping)) for _ in range(6)]
        for _ in range(10):
            goal = await _completed(caller) + 1
            await until(lambda goal=goal: _reached(caller, goal), "more completed jobs")  # type: ignore[misc]
            await line.cut()
            await line.mend()
        stopping.set()
        await within(asyncio.gather(*users))
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(handler)
    assert [str(context.get("exception")) + str(context["message"]) for context in reported] == []


async def _use(caller: JobCaller, stopping: asyncio.Event) -> None:
    """Make many calls that wait for something at a time; errors of ours are expected."""
    own = caller.service.of(caller.tenant)
    while not stopping.is_set():
        try:
            jobs = await caller.submit_many(8)
            stream = await caller.watch(jobs[0].id)
            claimed = await caller.claim(8)
            await own.heartbeat([JobHeartbeat(id=job.id, epoch=job.epoch) for job in claimed])
            waits = [own.wait(job.id, timedelta(milliseconds=1)) for job in jobs]
            await asyncio.gather(*waits, return_exceptions=True)
            done = [JobCompletion(id=job.id, epoch=job.epoch, result=Raw(b"1")) for job in claimed]
            await own.complete_many(done)
            await take(stream, 1)
        except PenstockError:
            await asyncio.sleep(0)


async def _reached(caller: JobCaller, goal: int) -> bool:
    return await _completed(caller) >= goal
