"""A reader misses no event: many readers joining under load, the server killed, the database dumped and restored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import randint
from uuid import UUID

from msgspec import Raw

from penstock.errors import DatabaseUnavailable, PenstockError
from penstock.events import store as event_log
from penstock.events.event import Event
from penstock.events.positions import Positions
from penstock.events.tail import EVENTS
from penstock.jobs.service import JobService
from penstock.postgres.embedded import EmbeddedServer, embedded_url, socket_folder
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT
from tests.support.database_proxy import DatabaseProxy
from tests.support.databases import execute, open_database, query
from tests.support.jobs import JobCaller, job_service
from tests.support.postgres_servers import burn_transaction_numbers, copy_by_dump, kill, own_server
from tests.support.waiting import succeeds, within

LIFE = ["job.created", "job.started", "job.completed"]


async def test_streams_of_finished_jobs_are_whole_while_others_submit(alone: JobCaller, fresh: Database) -> None:
    """Each stream is the first one of its process, so each must find its place in the order by itself."""
    jobs = [await _finished(alone) for _ in range(20)]
    stopping = asyncio.Event()

    async def submitter(url: str) -> None:
        async with open_database(url, max_size=2) as database:
            caller = JobCaller(JobService(database), alone.tenant)
            while not stopping.is_set():
                await asyncio.gather(caller.submit(), caller.claim())

    async def history(database: Database, job_id: UUID) -> list[str]:
        service = JobService(database)
        try:
            return await asyncio.wait_for(JobCaller(service, alone.tenant).history(job_id), 5)
        except TimeoutError:
            return ["nothing"]
        finally:
            await service.stop()

    submitters = [asyncio.create_task(submitter(fresh.url)) for _ in range(4)]
    submitters += [asyncio.create_task(_commit_until(stopping, fresh.url)) for _ in range(2)]
    received = []
    async with open_database(fresh.url) as readers:
        for _ in range(10):
            received += await asyncio.gather(*(history(readers, job_id) for job_id in jobs))
    stopping.set()
    await asyncio.gather(*submitters)
    assert [events for events in received if events != LIFE] == []


async def test_a_stream_open_over_a_crash_continues_when_transaction_numbers_are_reused(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, open_database(server.url) as database, job_service(database) as service:
        caller = JobCaller(service, DEFAULT_TENANT)
        mark = await caller.submit()
        events = caller.events(after="0-0-0")
        assert (await within(anext(events))).subject == mark.id
        await burn_transaction_numbers(server.url, 3000)
        async with job_service(database) as other:
            heard = asyncio.Event()
            other.wakeups.subscribe(EVENTS, lambda _: heard.set())
            heard.clear()
            service.wakeups.announce(EVENTS)
            await within(heard.wait())  # its transaction has used one of the numbers
        await kill(server)
        await server.start()
        made = [await _submit_when_possible(caller) for _ in range(5)]
        assert [(await within(anext(events), 5)).subject for _ in made] == made


async def test_streams_of_old_jobs_are_whole_after_dump_and_restore(tmp_path: Path) -> None:
    async with own_server(tmp_path / "old") as old, own_server(tmp_path / "new", migrated=False) as new:
        async with _caller_of(old.url) as caller:
            await burn_transaction_numbers(old.url, 3000)
            jobs = [await _finished(caller) for _ in range(5)]
        await copy_by_dump(old, new)
        async with _caller_of(new.url) as caller:
            for job_id in jobs:
                assert await within(caller.history(job_id)) == LIFE


async def _commit_until(stopping: asyncio.Event, url: str) -> None:
    """Commit one transaction after another, as a busy process does, until stopped."""
    async with open_database(url, max_size=1) as database:
        while not stopping.is_set():
            loop = "DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
            await execute(database, loop)


async def test_streams_open_over_crashes_deliver_everything_once_and_in_order(tmp_path: Path) -> None:
    """Natural traffic, several processes with streams of all jobs and of single ones, and SIGKILL at any moment."""
    async with own_server(tmp_path) as server, AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(_caller_of(server.url)) for _ in range(3)]
        traffic = Traffic(callers)
        everything = [asyncio.create_task(_follow(caller, "0-0-0")) for caller in callers]
        for _ in range(3):
            goal = traffic.completed + randint(60, 90)
            await traffic.reached(goal)
            await kill(server)
            await server.start()
        jobs = await traffic.stop()
        rest = await stack.enter_async_context(_caller_of(server.url))
        end = (await rest.submit(task_type="the end")).id
        truth = await _all_events(server.url)
        for stream in everything:
            received = await within(stream, 60)
            assert received == truth
        assert truth[-1].endswith(f"job.created {end}")
        lives = [[line for line in truth if line.endswith(str(job_id))] for job_id in sorted(jobs)]
        finished = [(job_id, life) for job_id, life in zip(sorted(jobs), lives, strict=True) if "completed" in life[-1]]
        assert len(finished) > 100
        for job_id, life in finished:
            assert [_line(event) for event in [event async for event in rest.events(job_id)]] == life


async def test_a_reader_ahead_of_a_restored_database_gets_a_reset(tmp_path: Path) -> None:
    """This holds even if events after the restore have taken the positions that it knows."""
    async with own_server(tmp_path / "old") as old, own_server(tmp_path / "new", migrated=False) as new:
        async with _caller_of(old.url) as caller:
            kept = await _finished(caller)
            await copy_by_dump(old, new)
            lost = [await caller.submit() for _ in range(3)]
            seen = [event async for event in _first(caller.events(after="0-0-0"), 6)]
        assert [event.subject for event in seen[3:]] == [job.id for job in lost]
        async with _caller_of(new.url) as caller:
            ahead = await caller.watch(after=seen[-1].id)
            assert (await within(anext(ahead))).data == {"reason": "ahead", "after": seen[-1].id}
            made = [await caller.submit() for _ in range(3)]
            assert [(await within(anext(ahead))).subject for _ in made] == [job.id for job in made]
            replaced = await caller.watch(after=seen[-1].id)
            assert (await within(anext(replaced))).data == {"reason": "replaced", "after": seen[-1].id}
            job_stream = await caller.watch(kept, after=seen[-1].id)
            assert [event.type async for event in job_stream] == ["reset", *LIFE]
            held = await caller.watch(after=seen[2].id)
            assert [(await within(anext(held))).subject for _ in made] == [job.id for job in made]


async def test_a_housekeeper_running_over_a_restore_gives_up_no_event_that_may_still_come(tmp_path: Path) -> None:
    """It has seen higher event ids than the restored database has drawn so far."""
    async with own_server(tmp_path / "old") as old, own_server(tmp_path / "new", migrated=False) as new:
        proxy = DatabaseProxy(tmp_path, _socket(old))
        await proxy.mend()
        url = embedded_url(old.data_dir).replace(str(socket_folder(old.data_dir)), str(tmp_path))
        async with open_database(url) as database, open_database(new.url) as restored, _caller_of(old.url) as caller:
            positions = Positions(database)
            await caller.submit()
            await copy_by_dump(old, new)
            await caller.submit_many(5)
            for _ in range(5):
                await caller.submit()
            await positions.once()
            proxy.server_socket = _socket(new)
            await proxy.cut()
            await proxy.mend()
            async with restored.acquire() as writer, writer.transaction():
                await event_log.record(writer, DEFAULT_TENANT, "late", kind="test.late", data=Raw(b"{}"))
                async with restored.acquire() as other:
                    await event_log.record(other, DEFAULT_TENANT, "early", kind="test.early", data=Raw(b"{}"))
                await succeeds(positions.once, unless=DatabaseUnavailable)
                for _ in range(3):
                    await positions.once()
            await positions.once()
            assert [line.split()[-1] for line in await _all_events(new.url)][1:] == ["early", "late"]
        await proxy.cut()


async def test_streams_open_while_the_database_is_restored_get_a_reset_and_continue(tmp_path: Path) -> None:
    """The same happens after a failover to a replica that lacked the last transactions."""
    async with own_server(tmp_path / "old") as old, own_server(tmp_path / "new", migrated=False) as new:
        line = DatabaseProxy(tmp_path, _socket(old))
        await line.mend()
        url = embedded_url(old.data_dir).replace(str(socket_folder(old.data_dir)), str(tmp_path))
        async with _caller_of(url) as caller:
            job = await caller.submit_and_claim()
            everything, one = await caller.watch(), await caller.watch(job.id)
            await copy_by_dump(old, new)
            await caller.complete(job)
            assert (await within(anext(everything))).type == "job.completed"
            assert [(await within(anext(one))).type for _ in range(2)] == ["job.created", "job.started"]
            line.server_socket = _socket(new)
            await line.cut()
            await line.mend()
            reset = await within(anext(everything))
            assert (reset.type, reset.data["reason"]) == ("reset", "ahead")
            assert (await within(anext(one))).type == "job.completed", "it was on its way already"
            made = await _submit_when_possible(caller)
            assert (await within(anext(everything))).subject == made
        await line.cut()


class Traffic:
    """Jobs that are submitted, claimed and completed all the time, by several processes, over every outage."""

    def __init__(self, callers: list[JobCaller]) -> None:
        self.completed = 0
        self._goal, self._at_goal = 0, asyncio.Event()
        self._jobs: set[UUID] = set()
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._work(caller)) for caller in callers for _ in range(3)]

    async def reached(self, goal: int) -> None:
        """Return as soon as that many jobs are completed."""
        self._goal, self._at_goal = goal, asyncio.Event()
        await within(self._at_goal.wait(), 60)

    async def stop(self) -> set[UUID]:
        """Stop and return the jobs that were submitted."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        return self._jobs

    async def _work(self, caller: JobCaller) -> None:
        while not self._stopping.is_set():
            try:
                self._jobs.update(job.id for job in await caller.submit_many(3))
                for job in await caller.claim(3):
                    await caller.report(job, b"1", lines=["one"])
                    await caller.complete(job)
                    self.completed += 1
                    if self.completed >= self._goal:
                        self._at_goal.set()
            except PenstockError:
                await succeeds(caller.service.of(caller.tenant).stats, unless=PenstockError)


def _line(event: Event) -> str:
    return f"{event.position.number}-{event.position.index} {event.type} {event.subject}"


async def _follow(caller: JobCaller, after: str) -> list[str]:
    """Collect the events of one stream of all jobs, never reopened, up to the job that ends the test."""
    received: list[str] = []
    async for event in caller.events(after=after):
        received.append(_line(event))
        if event.data.get("task_type") == "the end":
            break
    return received


async def _first(events: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    for _ in range(count):
        yield await within(anext(events))


async def _all_events(url: str) -> list[str]:
    """Return all stored events in order of position, and check that no position is missing."""
    async with open_database(url) as database:
        async with database.acquire() as connection:
            async with asyncio.timeout(60):
                while not await event_log.position_events(connection):  # a reader's pass is in progress
                    pass
        rows = await query(
            database,
            "SELECT p.position, e.kind, coalesce(e.job_ids::text[], ARRAY[coalesce(e.job_id::text, e.subject)])"
            " FROM event_position p JOIN event e ON e.id = p.event_id AND e.at = p.at ORDER BY p.position",
        )
        ((stored,),) = await query(database, "SELECT count(*) FROM event")
    assert [position for position, _, _ in rows] == list(range(1, stored + 1))
    return [f"{position}-{n} {kind} {job}" for position, kind, jobs in rows for n, job in enumerate(jobs, 1)]


def _socket(server: EmbeddedServer) -> str:
    return str(socket_folder(server.data_dir) / ".s.PGSQL.5432")


@asynccontextmanager
async def _caller_of(url: str) -> AsyncIterator[JobCaller]:
    async with open_database(url) as database, job_service(database) as service:
        yield JobCaller(service, DEFAULT_TENANT)


async def _finished(caller: JobCaller) -> UUID:
    job = await caller.submit_and_claim()
    await caller.complete(job)
    return job.id


async def _submit_when_possible(caller: JobCaller) -> UUID:
    return (await succeeds(caller.submit, unless=DatabaseUnavailable)).id
