"""Event streams: in order, resumable anywhere, and held up by nobody else's transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import msgspec
import pytest

from penstock.errors import InvalidInput, NotFound, Overloaded
from penstock.jobs import events as events_module
from penstock.jobs.events import Event, Position
from penstock.jobs.states import ErrorCategory
from penstock.postgres.pool import Database
from tests.db.stage import Caller, open_database, run, started, take, within


def _watch(caller: Caller, *, job_id: UUID | None = None, after: str | None = None) -> AsyncIterator[Event]:
    position = None if after is None else Position.parse(after)
    return caller.service.events(caller.tenant, job_id=job_id, after=position)


async def _all(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


async def test_a_jobs_stream_tells_its_whole_life_and_ends(caller: Caller) -> None:
    job = await caller.submit_and_claim()
    await caller.beat(job, progress=b'{"fraction": 0.5}')
    await caller.fail(job, ErrorCategory.SHUTDOWN, message="moving")
    await caller.complete(await caller.claim_one())
    told = await within(_all(_watch(caller, job_id=job.id)))
    assert [event.type for event in told] == [
        "job.created", "job.started", "job.progress", "job.retrying", "job.started", "job.completed",
    ]  # fmt: skip
    assert {event.job_id for event in told} == {job.id}
    assert msgspec.json.decode(msgspec.json.encode(told[2].data))["progress"] == {"fraction": 0.5}
    assert told[3].data["category"] == "shutdown"
    assert told[1].data["epoch"] < told[4].data["epoch"]
    positions = [Position.parse(event.id) for event in told]
    assert positions == sorted(set(positions))


async def test_a_stream_resumes_behind_any_event_at_any_process(caller: Caller, far_caller: Caller) -> None:
    job = await caller.submit_and_claim()
    await caller.complete(job)
    told = await within(_all(_watch(caller, job_id=job.id)))
    for index, event in enumerate(told):
        rest = await within(_all(_watch(far_caller, job_id=job.id, after=event.id)))
        assert [later.id for later in rest] == [later.id for later in told[index + 1 :]]


async def test_one_row_for_many_jobs_is_told_job_by_job_and_can_be_resumed_in_its_middle(caller: Caller) -> None:
    first = await caller.submit()
    (start,) = await take(_watch(caller, job_id=first.id), 1)
    jobs = await caller.submit_many(10)
    told = await take(_watch(caller, after=start.id), 10)
    assert [event.job_id for event in told] == [job.id for job in jobs]
    rest = await take(_watch(caller, after=told[3].id), 6)
    assert [event.id for event in rest] == [event.id for event in told[4:]]


async def test_the_stream_of_all_jobs_is_live(caller: Caller, far_caller: Caller) -> None:
    stream = _watch(caller)
    first = asyncio.ensure_future(anext(stream))
    tail = caller.service._rooms[caller.tenant].tail
    await within(_joined(tail))
    job = await far_caller.submit()
    assert (await within(first)).job_id == job.id
    claimed = await far_caller.claim_one()
    await far_caller.complete(claimed)
    assert [event.type for event in await take(stream, 2)] == ["job.started", "job.completed"]


async def test_a_live_stream_of_one_job_ends_with_it(caller: Caller, far_caller: Caller) -> None:
    job = await caller.submit()
    reading = asyncio.ensure_future(_all(_watch(caller, job_id=job.id)))
    await far_caller.complete(await far_caller.claim_one())
    assert [event.type for event in await within(reading)] == ["job.created", "job.started", "job.completed"]


async def test_a_retried_job_goes_on_where_it_failed(caller: Caller) -> None:
    job = await caller.submit_and_claim()
    await caller.fail(job, ErrorCategory.BAD_INPUT)
    failed = await within(_all(_watch(caller, job_id=job.id)))
    assert failed[-1].type == "job.failed"
    await caller.retry(job.id)
    await caller.complete(await caller.claim_one())
    rest = await within(_all(_watch(caller, job_id=job.id, after=failed[-1].id)))
    assert [event.type for event in rest] == ["job.retried", "job.started", "job.completed"]


async def test_a_cancelled_job_tells_the_request_and_the_end(caller: Caller) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    await caller.fail(job, ErrorCategory.CANCELLED)
    assert await within(_types(caller, job.id)) == [
        "job.created", "job.started", "job.cancel_requested", "job.cancelled",
    ]  # fmt: skip


async def test_a_strangers_long_transaction_holds_nobody_up(alone: Caller, fresh: Database) -> None:
    stranger = await asyncpg.connect(fresh.url)
    try:
        await stranger.execute("CREATE TABLE public.elsewhere (n int)")
        async with stranger.transaction():
            await stranger.execute("INSERT INTO public.elsewhere VALUES (1)")  # has a transaction number from here on
            job = await alone.submit_and_claim()
            await alone.complete(job)
            assert await within(_types(alone, job.id)) == ["job.created", "job.started", "job.completed"]
    finally:
        await stranger.close()


async def test_a_late_commit_of_ours_is_not_overtaken(alone: Caller, fresh: Database) -> None:
    """The earlier number commits later: a reader waits for it instead of passing it for ever."""
    stream = _watch(alone)
    first = asyncio.ensure_future(anext(stream))
    await within(_joined(alone.service._rooms[alone.tenant].tail))
    late_id = (await alone.submit()).id
    assert (await within(first)).job_id == late_id
    async with fresh.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(
            "INSERT INTO event (tenant_id, at, type, job_id) VALUES ($1, clock(), 'job.late', $2)",
            alone.tenant,
            late_id,
        )
        overtaking = await alone.submit()
        pending = asyncio.ensure_future(take(stream, 2))
        horizon_checks = 5
        for _ in range(horizon_checks):  # the tail looks again and again, and must not tell the later one
            alone.service._rooms[alone.tenant].tail._news.set()
            await run(fresh, "SELECT 1")
        assert not pending.done()
        await transaction.commit()
    told = await within(pending)
    assert [(event.type, event.job_id) for event in told] == [("job.late", late_id), ("job.created", overtaking.id)]


async def test_every_event_is_told_once_while_many_write(alone: Caller, fresh: Database) -> None:
    stream = _watch(alone)
    first = asyncio.ensure_future(anext(stream))
    await within(_joined(alone.service._rooms[alone.tenant].tail))
    async with open_database(fresh.url) as far, started(far) as service:
        far_caller = Caller(service, alone.tenant)
        writers = [asyncio.ensure_future(_write(caller)) for caller in (alone, far_caller) for _ in range(8)]
        ids = {job_id for jobs in await asyncio.gather(*writers) for job_id in jobs}
    told = [await within(first), *await take(stream, len(ids) - 1)]
    assert {event.job_id for event in told} == ids
    positions = [Position.parse(event.id) for event in told]
    assert positions == sorted(set(positions))


async def test_a_reader_that_is_too_slow_is_sent_away_to_resume(alone: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_BACKLOG", 5)
    stream = _watch(alone)
    first = asyncio.ensure_future(anext(stream))
    await within(_joined(alone.service._rooms[alone.tenant].tail))
    jobs = await alone.submit_many(20)
    told = [await within(first)]
    with pytest.raises(Overloaded):
        await _drain(stream, told)
    rest = await take(_watch(alone, after=told[-1].id), 20 - len(told))
    assert [event.job_id for event in (*told, *rest)] == [job.id for job in jobs]


async def test_what_is_no_event_id_and_what_is_no_job_is_said_so(caller: Caller) -> None:
    for wrong in ("", "x", "1-2", "1-2-3-4", "-1-2-3", "1-2-٣", "9" * 30 + "-1-1"):
        with pytest.raises(InvalidInput, match=r"^after: must be the id of an event"):
            Position.parse(wrong)
    job = await caller.submit()
    other = job.id.__class__(int=1)
    with pytest.raises(NotFound):
        await within(_all(_watch(caller, job_id=other)))


async def _drain(stream: AsyncIterator[Event], told: list[Event]) -> None:
    async for event in stream:
        told += [event]


async def _types(caller: Caller, job_id: UUID) -> list[str]:
    return [event.type for event in await _all(_watch(caller, job_id=job_id))]


async def _joined(tail: events_module.EventTail) -> None:
    """Until a stream that was just opened is told what is new."""
    while not tail._readers:
        await asyncio.sleep(0)


async def _write(caller: Caller) -> list[object]:
    return [(await caller.submit()).id for _ in range(15)]
