"""Paused queues and tenants: no worker takes their jobs, running ones continue, and submits are accepted."""

from __future__ import annotations

import asyncio

import pytest

from penstock.access.audit import Sender
from penstock.errors import InvalidInput, NotFound
from penstock.jobs.controls import QueueSelection
from penstock.jobs.states import Status
from penstock.jobs.work import ClaimRequest
from penstock.postgres.pool import Database
from penstock.tenants.principal import OPERATOR, Principal
from tests.support.databases import execute, own_tenant, query
from tests.support.jobs import JobCaller
from tests.support.waiting import until, within

QUEUE = QueueSelection(task_type="echo", model_profile="small")


def sender(caller: JobCaller) -> Sender:
    principal = Principal(tenant=caller.tenant, tenant_name="t", scopes=OPERATOR.scopes)
    return Sender(principal=principal, address="127.0.0.1")


async def pause(caller: JobCaller, selected: QueueSelection = QUEUE) -> None:
    await caller.service.controls.pause(sender(caller), selected)


async def resume(caller: JobCaller, selected: QueueSelection = QUEUE) -> None:
    await caller.service.controls.resume(sender(caller), selected)


async def test_a_paused_queue_gives_no_jobs_and_accepts_new_ones(alone: JobCaller) -> None:
    job = await alone.submit_and_claim()
    await pause(alone)
    waiting = await alone.submit()
    other = await alone.submit(task_type="other")
    assert [job.id for job in await alone.claim(10)] == [other.id]
    await alone.complete(job)
    assert await alone.status(job.id) is Status.COMPLETED
    await resume(alone)
    assert [job.id for job in await alone.claim(10)] == [waiting.id]


async def test_pauses_concern_one_tenant_or_all(alone: JobCaller, fresh: Database) -> None:
    other = JobCaller(alone.service, await own_tenant(fresh))
    for each in (alone, other):
        await each.submit()
        await each.submit(task_type="more")
    everything = QueueSelection()
    await pause(other, everything)
    assert await other.claim(10) == []
    await pause(alone, QueueSelection(task_type="echo", model_profile="small", all_tenants=True))
    assert [job.task_type for job in await alone.claim(10)] == ["more"]
    await resume(other, everything)
    assert [job.task_type for job in await other.claim(10)] == ["more"]
    await resume(other, QueueSelection(task_type="echo", model_profile="small", all_tenants=True))
    assert len(await alone.claim(10)) == len(await other.claim(10)) == 1


@pytest.mark.parametrize("selected", [QUEUE, QueueSelection(), QueueSelection(all_tenants=True)])
async def test_a_resume_wakes_a_waiting_claim_of_another_process(
    selected: QueueSelection, caller: JobCaller, far_caller: JobCaller
) -> None:
    await pause(caller, selected)
    await caller.submit()
    waiting = asyncio.create_task(far_caller.claim(1, wait_seconds=30))
    await until(lambda: bool(far_caller.service._shared.claims._waiters), "the claim waits")
    await resume(caller, selected)
    assert len(await within(waiting, 1.5)) == 1


async def test_lists_show_what_is_paused_and_since_when(alone: JobCaller) -> None:
    await alone.submit(task_type="a")
    await alone.submit(task_type="b")
    await pause(alone, QueueSelection(task_type="a", model_profile="small"))
    await pause(alone, QueueSelection(task_type="never", model_profile="used"))
    listed = await alone.service.controls.queues(alone.tenant)
    assert [(one.task_type, one.pending, one.paused) for one in listed.queues] == [
        ("a", 1, True),
        ("b", 1, False),
        ("never", 0, True),
    ]
    assert listed.queues[0].paused_at is not None
    assert listed.paused_at is None
    await pause(alone, QueueSelection())
    listed = await alone.service.controls.queues(alone.tenant)
    assert all(one.paused for one in listed.queues)
    assert listed.paused_at is not None


async def test_a_pause_may_be_repeated_and_a_resume_needs_one(alone: JobCaller, fresh: Database) -> None:
    with pytest.raises(NotFound):
        await resume(alone)
    await pause(alone)
    await pause(alone)
    with pytest.raises(NotFound):
        await resume(alone, QueueSelection())
    await resume(alone)
    actions = [action for (action,) in await query(fresh, "SELECT action FROM audit ORDER BY id")]
    assert actions == ["queue.pause", "queue.pause", "queue.resume"]


async def test_half_a_queues_name_is_refused(alone: JobCaller) -> None:
    with pytest.raises(InvalidInput, match="model_profile"):
        await pause(alone, QueueSelection(task_type="echo"))
    with pytest.raises(InvalidInput, match="task_type"):
        await pause(alone, QueueSelection(model_profile="small"))


async def test_a_suspended_tenant_gives_no_jobs_until_it_is_resumed(alone: JobCaller, fresh: Database) -> None:
    other = JobCaller(alone.service, await own_tenant(fresh))
    running = await alone.submit_and_claim()
    await alone.submit()
    await execute(fresh, "UPDATE tenant SET suspended_at = now() WHERE id = $1", alone.tenant)
    await other.submit()
    everyone = ClaimRequest(worker_id="w", limit=10)
    assert len(await alone.service.claim(everyone)) == 1
    assert await alone.claim(10) == []
    await alone.complete(running)
    assert await alone.status(running.id) is Status.COMPLETED
    await execute(fresh, "UPDATE tenant SET suspended_at = NULL WHERE id = $1", alone.tenant)
    assert len(await alone.service.claim(everyone)) == 1
