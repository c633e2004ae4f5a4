"""Event streams: in order, resumable anywhere, and not delayed by transactions that are held open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import msgspec
import pytest
from msgspec import Raw

from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound
from penstock.events import store as event_log
from penstock.events import tail as tail_module
from penstock.events.event import Connection, Event
from penstock.events.position import Position
from penstock.failures import Category
from penstock.postgres.pool import Database
from tests.support.databases import open_database, own_tenant
from tests.support.jobs import JobCaller, job_service, take
from tests.support.waiting import until, within


async def _all(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


async def test_a_jobs_stream_delivers_its_whole_life_and_ends(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.beat(job, progress=b'{"fraction": 0.5}')
    await caller.fail(job, Category.SHUTDOWN, message="moving")
    await caller.complete(await caller.claim_one())
    received = await within(_all(caller.events(job.id)))
    assert [event.type for event in received] == [
        "job.created", "job.started", "job.progress", "job.retrying", "job.started", "job.completed",
    ]  # fmt: skip
    assert {event.subject for event in received} == {job.id}
    assert msgspec.json.decode(msgspec.json.encode(received[2].data))["progress"] == {"fraction": 0.5}
    assert received[3].data["category"] == "shutdown"
    assert received[1].data["epoch"] < received[4].data["epoch"]
    positions = [Position.parse(event.id) for event in received]
    assert positions == sorted(set(positions))


async def test_a_stream_resumes_after_any_event_in_any_process(caller: JobCaller, far_caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.complete(job)
    received = await within(_all(caller.events(job.id)))
    for index, event in enumerate(received):
        rest = await within(_all(far_caller.events(job.id, after=event.id)))
        assert [later.id for later in rest] == [later.id for later in received[index + 1 :]]


async def test_one_row_for_many_jobs_is_delivered_job_by_job_and_can_be_resumed_in_its_middle(
    caller: JobCaller,
) -> None:
    first = await caller.submit()
    (start,) = await take(caller.events(first.id), 1)
    jobs = await caller.submit_many(10)
    received = await take(caller.events(after=start.id), 10)
    assert [event.subject for event in received] == [job.id for job in jobs]
    rest = await take(caller.events(after=received[3].id), 6)
    assert [event.id for event in rest] == [event.id for event in received[4:]]


async def test_the_stream_of_all_jobs_is_live(caller: JobCaller, far_caller: JobCaller) -> None:
    stream = await caller.watch()
    job = await far_caller.submit()
    assert (await within(anext(stream))).subject == job.id
    claimed = await far_caller.claim_one()
    await far_caller.complete(claimed)
    assert [event.type for event in await take(stream, 2)] == ["job.started", "job.completed"]


async def test_a_live_stream_of_one_job_ends_with_it(caller: JobCaller, far_caller: JobCaller) -> None:
    job = await caller.submit()
    reading = asyncio.ensure_future(_all(caller.events(job.id)))
    await far_caller.complete(await far_caller.claim_one())
    assert [event.type for event in await within(reading)] == ["job.created", "job.started", "job.completed"]


async def test_the_stream_of_a_retried_job_continues_after_its_failure(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.fail(job, Category.BAD_INPUT)
    failed = await within(_all(caller.events(job.id)))
    assert failed[-1].type == "job.failed"
    await caller.retry(job.id)
    await caller.complete(await caller.claim_one())
    rest = await within(_all(caller.events(job.id, after=failed[-1].id)))
    assert [event.type for event in rest] == ["job.retried", "job.started", "job.completed"]


async def test_a_cancelled_jobs_stream_has_the_request_and_the_end(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.cancel(job.id)
    await caller.fail(job, Category.CANCELLED)
    assert await within(_types(caller, job.id)) == [
        "job.created", "job.started", "job.cancel_requested", "job.cancelled",
    ]  # fmt: skip


async def test_a_transaction_held_open_delays_no_reader(alone: JobCaller, fresh: Database) -> None:
    """It may be held by another program, or by a process of ours that has written an event."""
    stranger = await asyncpg.connect(fresh.url)
    try:
        await stranger.execute("CREATE TABLE public.elsewhere (n int)")
        async with stranger.transaction(), fresh.acquire() as ours, ours.transaction():
            await stranger.execute("INSERT INTO public.elsewhere VALUES (1)")
            await _record(ours, alone)
            stream = await alone.watch()
            jobs = [await alone.submit() for _ in range(3)]
            received = await take(stream, 3)
            assert [event.subject for event in received] == [job.id for job in jobs]
            job = await alone.claim_one()
            await alone.complete(job)
            assert await within(_types(alone, job.id)) == ["job.created", "job.started", "job.completed"]
    finally:
        await stranger.close()


async def test_an_event_committed_late_comes_late_and_is_not_left_out(alone: JobCaller, fresh: Database) -> None:
    """The event has a lower id than events that readers have seen, but it takes the next position."""
    stream = await alone.watch()
    async with fresh.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await _record(slow, alone)
        overtaking = await alone.submit()
        assert (await within(anext(stream))).subject == overtaking.id
        following = await alone.submit()
        assert (await within(anext(stream))).subject == following.id
        await transaction.commit()
    late = await within(anext(stream))
    assert (late.type, late.subject, late.data) == ("test.late", "somewhere", {"n": 1})


async def test_every_event_is_delivered_once_while_many_write(alone: JobCaller, fresh: Database) -> None:
    stream = await alone.watch()
    async with open_database(fresh.url) as far, job_service(far) as service:
        far_caller = JobCaller(service, alone.tenant)
        writers = [asyncio.ensure_future(_write(caller)) for caller in (alone, far_caller) for _ in range(8)]
        ids = {job_id for jobs in await asyncio.gather(*writers) for job_id in jobs}
    received = await take(stream, len(ids))
    assert {event.subject for event in received} == ids
    positions = [Position.parse(event.id) for event in received]
    assert positions == sorted(set(positions))


async def test_a_slow_reader_reads_what_it_missed_from_the_database(
    alone: JobCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the rows held in memory for the reader stay within their bound."""
    monkeypatch.setattr(tail_module, "_READER_BYTES", 1000)
    stream = await alone.watch()
    tail = alone.service.of(alone.tenant)._events.tail
    jobs = [await alone.submit() for _ in range(20)]
    received = list(await take(stream, 1))
    await until(lambda: tail.end.number == 20, "the tail has read everything")
    assert tail._bytes <= 1000
    received += await take(stream, 10)
    jobs += await alone.submit_many(50)
    received += await take(stream, 59)
    assert [event.subject for event in received] == [job.id for job in jobs]


async def test_stopping_the_service_ends_open_streams_and_refuses_new_ones(fresh: Database) -> None:
    """A program that embeds the service and still reads events must not hang."""
    async with job_service(fresh) as service:
        caller = JobCaller(service, await own_tenant(fresh))
        job = await caller.submit()
        everything, one = await caller.watch(), await caller.watch(job.id)
        await take(one, 1)
        reading = [asyncio.create_task(_all(stream)) for stream in (everything, one)]
        opening = asyncio.create_task(caller.watch())
        await asyncio.sleep(0)
    assert await within(asyncio.gather(*reading)) == [[], []]
    for late in (opening, asyncio.create_task(caller.watch(job.id))):
        with pytest.raises(DatabaseUnavailable, match="stopping"):
            await within(late)


async def test_invalid_event_ids_and_unknown_jobs_are_refused(caller: JobCaller) -> None:
    for wrong in ("", "x", "1-2", "1-2-3-4", "-1-2-3", "1-2-٣", "9" * 30 + "-1-1"):
        with pytest.raises(InvalidInput, match=r"^after: must be the id of an event"):
            Position.parse(wrong)
    job = await caller.submit()
    other = job.id.__class__(int=1)
    with pytest.raises(NotFound):
        await within(_all(caller.events(other)))


async def _types(caller: JobCaller, job_id: UUID) -> list[str]:
    return [event.type for event in await _all(caller.events(job_id))]


async def _record(connection: Connection, caller: JobCaller) -> None:
    await event_log.record(connection, caller.tenant, "somewhere", kind="test.late", data=Raw(b'{"n": 1}'))


async def _write(caller: JobCaller) -> list[object]:
    return [(await caller.submit()).id for _ in range(15)]
