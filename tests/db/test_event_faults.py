"""A reader misses no event: many readers joining under load, the server killed, the database dumped and restored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from penstock.errors import DatabaseUnavailable
from penstock.events.tail import EVENTS
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.tenants.principal import DEFAULT_TENANT
from tests.db.crashing import burn_transaction_numbers, copy_by_dump, kill, own_server
from tests.db.stage import Caller, open_database, run, started, within

LIFE = ["job.created", "job.started", "job.completed"]


async def test_streams_of_finished_jobs_are_whole_while_others_submit(alone: Caller, fresh: Database) -> None:
    """Each stream is the first one of its process, so each has to find its place in the order by itself."""
    jobs = [await _finished(alone) for _ in range(20)]
    stopping = asyncio.Event()

    async def submitter(url: str) -> None:
        async with open_database(url, max_size=2) as database:
            caller = Caller(JobService(database), alone.tenant)
            while not stopping.is_set():
                await asyncio.gather(caller.submit(), caller.claim())

    async def history(database: Database, job_id: UUID) -> list[str]:
        service = JobService(database)
        try:
            return await asyncio.wait_for(Caller(service, alone.tenant).history(job_id), 5)
        except TimeoutError:
            return ["nothing"]
        finally:
            await service.stop()

    submitters = [asyncio.create_task(submitter(fresh.url)) for _ in range(4)]
    submitters += [asyncio.create_task(_commit_until(stopping, fresh.url)) for _ in range(2)]
    told = []
    async with open_database(fresh.url) as readers:
        for _ in range(10):
            told += await asyncio.gather(*(history(readers, job_id) for job_id in jobs))
    stopping.set()
    await asyncio.gather(*submitters)
    assert [events for events in told if events != LIFE] == []


async def test_a_stream_open_over_a_crash_goes_on_when_transaction_numbers_are_given_again(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, open_database(server.url) as database, started(database) as service:
        caller = Caller(service, DEFAULT_TENANT)
        mark = await caller.submit()
        events = caller.events(after="0-0-0")
        assert (await within(anext(events))).subject == mark.id
        await burn_transaction_numbers(server.url, 3000)
        service.wakeups.announce(EVENTS)
        await asyncio.sleep(0.05)
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
    """A process of ours whose transactions follow each other as fast as the server allows."""
    async with open_database(url, max_size=1) as database:
        while not stopping.is_set():
            loop = "DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
            await run(database, loop)


@asynccontextmanager
async def _caller_of(url: str) -> AsyncIterator[Caller]:
    async with open_database(url) as database, started(database) as service:
        yield Caller(service, DEFAULT_TENANT)


async def _finished(caller: Caller) -> UUID:
    job = await caller.submit_and_claim()
    await caller.complete(job)
    return job.id


async def _submit_when_possible(caller: Caller) -> UUID:
    while True:
        try:
            return (await caller.submit()).id
        except DatabaseUnavailable:
            await asyncio.sleep(0.01)
