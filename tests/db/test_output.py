"""Output and logs of running jobs: stored once, in order, and only from the attempt that holds the lease."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from penstock.errors import InvalidInput, StaleEpoch
from penstock.events import store as event_log
from penstock.events import tail as tail_module
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.failures import Category
from penstock.jobs.sql import history
from penstock.jobs.work import ClaimedJob, HeartbeatResult, JobHeartbeat
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import query, snapshot
from tests.support.duties import rescue
from tests.support.hostile_json import KEPT, REFUSED
from tests.support.jobs import LOGGED_AT, JobCaller, take
from tests.support.waiting import until, within


async def events_of(caller: JobCaller, job: ClaimedJob, *, after: str | None = None) -> list[Event]:
    """Return a finished job's events."""
    return [event async for event in caller.events(job.id, after=after)]


def read(event: Event) -> dict[str, Any]:
    """Return the data of an event as its reader gets it."""
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event.data))
    return data


def outputs(events: list[Event]) -> list[tuple[int, list[Any]]]:
    return [(read(event)["first"], read(event)["chunks"]) for event in events if event.type == "job.output"]


def messages(events: list[Event]) -> list[list[str]]:
    return [[line["message"] for line in read(event)["lines"]] for event in events if event.type == "job.log"]


async def test_chunks_and_lines_become_events_between_start_and_end(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    assert isinstance(await caller.report(job, b'{"text": "Good "}', b"2", lines=["loaded"]), HeartbeatResult)
    assert isinstance(await caller.report(job, b"null", first=2, progress=b"0.5"), HeartbeatResult)
    assert isinstance(await caller.report(job, lines=["one", "two"], lines_from=1), HeartbeatResult)
    await caller.complete(job)
    events = await within(events_of(caller, job))
    assert [event.type for event in events] == [
        "job.created", "job.started", "job.log", "job.output", "job.progress", "job.output", "job.log", "job.completed",
    ]  # fmt: skip
    assert outputs(events) == [(0, [{"text": "Good "}, 2]), (2, [None])]
    assert messages(events) == [["loaded"], ["one", "two"]]
    line = {"time": "2026-01-30T09:00:00Z", "level": "info", "message": "loaded"}
    assert msgspec.convert(line["time"], type(LOGGED_AT)) == LOGGED_AT
    assert read(events[2])["lines"] == [line]
    for event in events[2:7]:
        assert read(event) | {"epoch": job.epoch, "attempt": 1, "task_type": "echo"} == read(event)


async def test_a_repeated_or_overlapping_heartbeat_adds_only_new_output(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    for _ in range(3):
        assert isinstance(await caller.report(job, b"0", b"1", b"2", lines=["a", "b"]), HeartbeatResult)
    assert isinstance(await caller.report(job, b"1", first=1), HeartbeatResult)
    result = await caller.report(job, b"1", b"2", b"3", b"4", first=1, lines=["b", "c"], lines_from=1)
    assert isinstance(result, HeartbeatResult)
    await caller.complete(job)
    events = await within(events_of(caller, job))
    assert outputs(events) == [(0, [0, 1, 2]), (3, [3, 4])]
    assert messages(events) == [["a", "b"], ["c"]]


async def test_a_gap_is_refused_and_nothing_of_that_heartbeat_is_written(alone: JobCaller, fresh: Database) -> None:
    job = await alone.submit_and_claim()
    await alone.report(job, b"0", b"1", lines=["a"])
    before = await snapshot(fresh)
    refused = await alone.report(job, b"3", first=3, lines=["b"], lines_from=1, progress=b"1")
    assert isinstance(refused, InvalidInput)
    assert refused.message == "chunks_from: must be at most 2, the number already stored for this attempt"
    refused = await alone.report(job, b"2", first=2, lines=["c"], lines_from=2)
    assert isinstance(refused, InvalidInput)
    assert refused.message == "logs_from: must be at most 1, the number already stored for this attempt"
    assert await snapshot(fresh) == before


async def test_heartbeats_of_one_job_that_are_written_together_keep_their_order(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    beats = [caller.report(job, str(n).encode(), first=n, lines=[f"line {n}"], lines_from=n) for n in range(20)]
    results = await asyncio.gather(*beats, *(caller.beat(job) for _ in range(5)))
    assert all(isinstance(result, HeartbeatResult) for result in results)
    await caller.complete(job)
    events = await within(events_of(caller, job))
    assert [chunk for _, chunks in outputs(events) for chunk in chunks] == list(range(20))
    assert [first for first, _ in outputs(events)] == list(range(20))
    assert messages(events) == [[f"line {n}"] for n in range(20)]


async def test_the_same_output_from_two_connections_at_once_is_stored_once(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    """A heartbeat whose response was lost is sent again to another gateway while the first is still being written."""
    job = await caller.submit_and_claim()
    chunks = [str(number).encode() for number in range(30)]
    for end in range(10, 31, 10):
        beats = [sender.report(job, *chunks[:end]) for sender in (caller, far_caller) for _ in range(4)]
        assert all(isinstance(result, HeartbeatResult) for result in await asyncio.gather(*beats))
    await caller.complete(job)
    assert outputs(await within(events_of(caller, job))) == [(n, list(range(n, n + 10))) for n in (0, 10, 20)]


async def test_one_statement_stores_the_output_of_many_jobs(caller: JobCaller) -> None:
    await caller.submit_many(30)
    jobs = await caller.claim(30)
    await caller.retry(jobs[7].id)
    beats = [
        JobHeartbeat(id=job.id, epoch=job.epoch, chunks=[Raw(b"%d" % number)], chunks_from=0 if number != 9 else 5)
        for number, job in enumerate(jobs)
    ]
    results = await caller.service.of(caller.tenant).heartbeat(beats)
    assert isinstance(results[7], StaleEpoch)
    assert isinstance(results[9], InvalidInput)
    assert sum(isinstance(result, HeartbeatResult) for result in results) == 28
    for number in (0, 8, 29):
        await caller.complete(jobs[number])
        assert outputs(await within(events_of(caller, jobs[number]))) == [(0, [number])]
    await caller.complete(jobs[9])
    assert outputs(await within(events_of(caller, jobs[9]))) == []


async def test_the_next_attempt_starts_its_output_afresh(alone: JobCaller, fresh: Database, fresh_clock: Clock) -> None:
    first = await alone.submit_and_claim()
    await alone.report(first, b'"lost"', b'"lost too"', lines=["first"])
    await fresh_clock.advance(alone.service.limits.lease + timedelta(seconds=1))
    await rescue(fresh)
    second = await alone.claim_one()
    assert isinstance(await alone.report(first, b'"late"', first=2), StaleEpoch)
    assert isinstance(await alone.report(second, b'"right"', lines=["second"]), HeartbeatResult)
    await alone.complete(second)
    events = await within(events_of(alone, second))
    assert outputs(events) == [(0, ["lost", "lost too"]), (0, ["right"])]
    assert messages(events) == [["first"], ["second"]]
    assert [read(event)["attempt"] for event in events if event.type == "job.output"] == [1, 2]


@pytest.mark.parametrize("category", [Category.CANCELLED, Category.BAD_INPUT])
async def test_output_stays_with_a_job_that_ends_without_a_result(caller: JobCaller, category: Category) -> None:
    job = await caller.submit_and_claim()
    if category is Category.CANCELLED:
        await caller.cancel(job.id)
    result = await caller.report(job, b"1")
    assert isinstance(result, HeartbeatResult)
    assert result.cancel_requested == (category is Category.CANCELLED)
    await caller.fail(job, category)
    assert isinstance(await caller.report(job, b"2", first=1), StaleEpoch)
    assert outputs(await within(events_of(caller, job))) == [(0, [1])]


async def test_a_stream_resumes_in_the_middle_of_the_output_in_any_process(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    job = await caller.submit_and_claim()
    for number in range(10):
        await caller.report(job, b"%d" % number, first=number, lines=[str(number)], lines_from=number)
    await caller.complete(job)
    events = await within(events_of(caller, job))
    assert len(events) == 23
    for index, event in enumerate(events):
        rest = await within(events_of(far_caller, job, after=event.id))
        assert [later.id for later in rest] == [later.id for later in events[index + 1 :]]


async def test_live_readers_of_the_job_and_of_all_jobs_get_output_as_it_arrives(
    caller: JobCaller, far_caller: JobCaller
) -> None:
    job = await far_caller.submit_and_claim()
    one = caller.events(job.id)
    await take(one, 2)
    everything = await caller.watch()
    await far_caller.report(job, b"[1]", b"[2]")
    assert read(await within(anext(everything)))["chunks"] == [[1], [2]]
    (event,) = await take(one, 1)
    assert (event.type, read(event)["chunks"]) == ("job.output", [[1], [2]])


@pytest.mark.parametrize(("rows", "size"), [(3, 2**20), (500, 40)], ids=["few rows", "few bytes"])
async def test_a_long_output_is_read_page_by_page(
    caller: JobCaller, monkeypatch: pytest.MonkeyPatch, rows: int, size: int
) -> None:
    for module in (event_log, history):
        monkeypatch.setattr(module, "_PAGE", rows)
        monkeypatch.setattr(module, "_PAGE_BYTES", size)
    job = await caller.submit_and_claim()
    live = caller.events(job.id)
    await take(live, 2)
    for number in range(20):
        await caller.report(job, b'"%020d"' % number, first=number)
    assert outputs(list(await take(live, 20))) == [(number, [f"{number:020d}"]) for number in range(20)]
    await caller.complete(job)
    stored = await within(events_of(caller, job))
    assert [event.type for event in stored] == ["job.created", "job.started", *["job.output"] * 20, "job.completed"]
    after_start = caller.events(after=stored[1].id)
    assert [event.id for event in await take(after_start, 21)] == [event.id for event in stored[2:]]
    assert await caller.service.of(caller.tenant).events_over(job.id, Position.parse(stored[-1].id))
    assert not await caller.service.of(caller.tenant).events_over(job.id, Position.parse(stored[-2].id))


async def test_a_reader_with_too_much_unread_output_reads_it_from_the_database(
    alone: JobCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "_READER_BYTES", 1000)
    job = await alone.submit_and_claim()
    stream = alone.events(job.id)
    seen = list(await take(stream, 2))
    tail = alone.service.of(alone.tenant)._events.tail
    for number in range(20):
        await alone.report(job, b'"%020d"' % number, first=number)
    await until(lambda: tail.end.number == 22, "the tail has read everything")
    assert tail._bytes <= 1000
    seen += await take(stream, 10)
    await alone.complete(job)
    seen += [event async for event in stream]
    assert outputs(seen) == [(number, [f"{number:020d}"]) for number in range(20)]


@pytest.mark.parametrize("name", KEPT)
async def test_strange_but_valid_chunks_reach_readers_as_they_were_written(caller: JobCaller, name: str) -> None:
    job = await caller.submit_and_claim()
    strange = KEPT[name]
    await caller.report(job, b"0", strange)
    await caller.report(job, b"0", strange, strange, b"3")  # the first two are cut off by the database
    await caller.complete(job)
    events = [event for event in await within(events_of(caller, job)) if event.type == "job.output"]
    line = strange.replace(b"\n", b" ").replace(b"\r", b" ")
    assert [event.data["first"] for event in events] == [0, 2]
    assert bytes(events[0].data["chunks"]) == b"[0,%b]" % line
    assert b"".join(bytes(events[1].data["chunks"]).split()) == b"".join((b"[%b,3]" % line).split())


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "nothing"])  # decoding refuses empty chunks
async def test_a_chunk_that_is_not_json_is_refused_and_its_neighbours_are_stored(caller: JobCaller, name: str) -> None:
    await caller.submit_many(2)
    bad, good = await caller.claim(2)
    first, refused, again, fine = await asyncio.gather(
        caller.report(bad, b"0"),
        caller.report(bad, REFUSED[name], first=1),
        caller.report(bad, b"1", first=1),
        caller.report(good, b"0"),
    )
    assert isinstance(refused, InvalidInput)
    assert refused.problems[0].field == "chunks"
    assert all(isinstance(result, HeartbeatResult) for result in (first, again, fine))
    await caller.complete(bad)
    assert outputs(await within(events_of(caller, bad))) == [(0, [0]), (1, [1])]


async def test_any_text_is_a_log_message(caller: JobCaller) -> None:
    job = await caller.submit_and_claim()
    strange = ["\x00", "a\r\nb", '"\\', "\u2028🦀", "x" * 10_000, ""]
    assert isinstance(await caller.report(job, lines=strange), HeartbeatResult)
    assert isinstance(await caller.report(job, lines=[*strange, "\x00 last"]), HeartbeatResult)
    await caller.complete(job)
    events = await within(events_of(caller, job))
    assert messages(events) == [strange, ["\x00 last"]]
    assert b"\n" not in msgspec.json.encode(events[2].data)


async def test_rows_about_output_are_dropped_with_their_job(caller: JobCaller, database: Database) -> None:
    """They lie in the day's partition like every event, and name their tenant and job like every row about one job."""
    job = await caller.submit_and_claim()
    await caller.report(job, b'"ab"', lines=["c"])
    rows = await query(
        database,
        "SELECT kind, tenant_id, first, weight = octet_length(data::text), tableoid::regclass::text"
        " FROM event WHERE job_id = $1 ORDER BY id",
        job.id,
    )
    assert [row[:4] for row in rows] == [("job.log", caller.tenant, None, True), ("job.output", caller.tenant, 0, True)]
    assert all("event_2" in row[4] for row in rows), rows
