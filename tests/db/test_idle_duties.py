"""Idle duties wait for a wake-up or the next due time, and idle claims share one poll, so that little is polled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from penstock.assembly.housekeeper import HousekeeperAssembly
from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.jobs.limits import JobLimits
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimRequest
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from tests.support.databases import execute, open_database, own_tenant
from tests.support.gateways import settings_for
from tests.support.jobs import JobCaller, job_service
from tests.support.waiting import until, within

_DAY = timedelta(days=1)


@asynccontextmanager
async def on_duty(duty: Periodic) -> AsyncIterator[None]:
    running = asyncio.create_task(duty.run())
    try:
        yield
    finally:
        await duty.stop()
        await running


async def test_a_job_that_is_scheduled_while_the_promoter_idles_starts_when_it_is_due(fresh: Database) -> None:
    async with job_service(fresh) as service:
        caller = JobCaller(service, await own_tenant(fresh))
        promoter = Promoter(fresh, service.wakeups, interval=timedelta(milliseconds=1), idle_interval=_DAY)
        async with on_duty(promoter):
            first = await caller.submit(run_at=datetime.now(UTC) + timedelta(milliseconds=300))
            promoter.wake()
            (claimed,) = await within(caller.claim(1, wait_seconds=30), 40)
            assert claimed.id == first.id


async def test_changes_of_jobs_wake_the_duties_of_every_housekeeper(fresh: Database) -> None:
    housekeeper = HousekeeperAssembly(settings_for(fresh.url)).housekeeper
    woken: set[str] = set()
    for duty in housekeeper.duties:
        duty.wake = lambda name=duty.name: woken.add(name)  # type: ignore[method-assign, misc]  # to see the call
    running = asyncio.create_task(housekeeper.run())
    try:
        await within(housekeeper.wakeups.listening.wait())
        async with job_service(fresh) as service:
            woken.clear()
            await JobCaller(service, await own_tenant(fresh)).submit(run_at=datetime.now(UTC) + timedelta(hours=1))
            await until(lambda: "promoter" in woken, "the promoter of another process was woken")
        assert woken == {duty.name for duty in housekeeper.duties}
    finally:
        await housekeeper.stop()
        await running


async def test_leases_are_polled_more_often_while_any_is_held(fresh: Database) -> None:
    async with job_service(fresh) as service:
        caller = JobCaller(service, await own_tenant(fresh))
        rescuer = Rescuer(fresh, JobLimits(), service.wakeups)
        await rescuer.once()
        assert rescuer.due_in is None
        await caller.submit_and_claim()
        await rescuer.once()
        assert rescuer.due_in == timedelta(seconds=1)


async def test_waiting_claims_share_one_poll_which_finds_jobs_without_wake_ups(fresh: Database) -> None:
    statements: list[str] = []
    async with job_service(fresh) as submitting, open_database(fresh.url, max_size=1) as database:
        service = JobService(database)  # is not started, so it hears no wake-ups
        service.poll_every(timedelta(milliseconds=20))
        caller = JobCaller(submitting, await own_tenant(fresh))
        claims = {
            name: asyncio.create_task(
                service.claim(ClaimRequest(worker_id="idle", task_types=[name], model_profiles=["m"], wait_seconds=60))
            )
            for name in ("first", "second", "third")
        }
        try:
            await until(lambda: service.claims.task_types() == claims.keys(), "all claims wait")
            async with database.acquire() as connection:
                connection.add_query_logger(lambda query: statements.append(query.query))
            await until(lambda: len(statements) >= 5, "there were some polls")
            assert len(set(statements)) == 1
            for name in ("third", "first", "second"):
                job = await caller.submit(task_type=name, model_profile="m")
                (claimed,) = await within(claims[name])
                assert claimed.id == job.id
            await until(lambda: service._shared.polls._polling is None, "without waiting claims there are no polls")
        finally:
            for claim in claims.values():
                claim.cancel()
            await service.stop()


async def test_a_claim_that_may_not_take_ready_jobs_keeps_no_other_claim_waiting(fresh: Database) -> None:
    async with job_service(fresh) as submitting:
        service = JobService(fresh)
        service.poll_every(timedelta(milliseconds=20))
        caller = JobCaller(submitting, await own_tenant(fresh))
        request = ClaimRequest(worker_id="w", task_types=["t"], model_profiles=["m"], wait_seconds=60)
        refused = asyncio.create_task(service.claim(replace(request, tenants=["default"])))
        await until(lambda: len(service.claims._waiters) == 1, "the claim of another tenant waits")
        taken = asyncio.create_task(service.claim(request))
        try:
            await until(lambda: len([w for w in service.claims._waiters if w.idle]) == 2, "both wait")
            job = await caller.submit(task_type="t", model_profile="m")
            assert [one.id for one in await within(taken)] == [job.id]
            assert not refused.done()
        finally:
            refused.cancel()
            await asyncio.wait([refused])
            await service.stop()


async def test_a_claim_that_goes_on_waiting_after_the_stop_begins_no_polls(fresh: Database) -> None:
    service = JobService(fresh)
    request = ClaimRequest(worker_id="w", task_types=["t"], model_profiles=["m"], wait_seconds=60)
    claim = asyncio.create_task(service.claim(request))
    await until(lambda: len([one for one in service.claims._waiters if one.idle]) == 1, "the claim waits")
    await service.stop()
    service.claims.wake(None)
    (waiter,) = service.claims._waiters
    await until(lambda: waiter.idle and not waiter.news.is_set(), "the claim has tried once more, and waits again")
    claim.cancel()
    await asyncio.wait([claim])
    assert service._shared.polls._polling is None


async def test_a_poll_that_fails_ends_the_waiting_claims_with_the_error(fresh: Database) -> None:
    async with open_database(fresh.url) as database:
        service = JobService(database)
        service.poll_every(timedelta(milliseconds=20))
        claim = asyncio.create_task(service.claim(ClaimRequest(worker_id="w", task_types=["t"], wait_seconds=60)))
        await until(lambda: service.claims.task_types() is not None, "the claim waits")
        await execute(fresh, "ALTER TABLE lane RENAME TO gone")
        with pytest.raises(asyncpg.UndefinedTableError):
            await within(claim)
        await service.stop()
