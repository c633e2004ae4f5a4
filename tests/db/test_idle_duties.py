"""Duties of an idle housekeeper wait for a wake-up or the next due time, so they rarely poll."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from penstock.assembly.housekeeper import HousekeeperAssembly
from penstock.housekeeping.promoter import Promoter
from penstock.housekeeping.rescuer import Rescuer
from penstock.jobs.limits import JobLimits
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from tests.support.databases import own_tenant
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
