"""Several processes share the work: each event becomes deliveries once, and a late dispatcher changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from penstock.callbacks import cursors, deliveries, store
from penstock.callbacks.callback import Callback
from penstock.callbacks.dispatcher import LEASE
from penstock.callbacks.endpoint import EndpointChange
from penstock.postgres.pool import Database
from tests.support.callbacks import Callbacks, Message, Receiver, managing
from tests.support.clocks import Clock
from tests.support.databases import execute, open_database, own_tenant, query
from tests.support.jobs import JobCaller, submission
from tests.support.waiting import until, within


async def test_two_housekeepers_deliver_each_event_once_and_in_order(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, tmp_path: Path
) -> None:
    endpoints = [await callbacks.add(caller.tenant, f"{hook.url}/{number}", "*") for number in range(4)]
    async with open_database(database.url) as far:
        other = Callbacks(far, tmp_path)
        async with callbacks.running(), other.running():
            for _ in range(10):
                await caller.submit_many(20)
                for job in await caller.claim(20):
                    await caller.complete(job)

            async def all_delivered() -> bool:
                states = [await callbacks.endpoint(caller.tenant, one) for one in endpoints]
                return [state.delivered for state in states] == [600] * 4

            await until(all_delivered, "every event is delivered to every endpoint")
    assert max(Counter((message.path, message.id) for message in hook.messages).values()) == 1
    by_subject: dict[tuple[str, str], list[str]] = {}
    for message in hook.messages:
        by_subject.setdefault((message.path, message.event["subject"]), []).append(message.event["type"])
    assert len(by_subject) == 800
    assert all(types == ["job.created", "job.started", "job.completed"] for types in by_subject.values())


async def test_a_dispatcher_whose_lease_ended_changes_nothing(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    """It was stopped for longer than its lease: another one delivers, and the late outcome is refused."""
    late: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def respond(_: Message) -> web.Response:
        return web.Response(status=await late if len(hook.messages) == 1 else 200)

    hook.respond = respond
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    async with callbacks.running():
        await caller.submit()
        await hook.got(1)
        await clock.advance(LEASE + timedelta(seconds=1))
        other = callbacks.dispatcher()
        running = asyncio.create_task(other.run())
        await hook.got(2, "the second dispatcher sends it too")

        async def delivered() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).delivered == 1

        await until(delivered, "its outcome is recorded")
        late.set_result(500)
        await within(other.stop())
        await running
    first, second = hook.messages
    assert first.id == second.id
    state = await callbacks.endpoint(caller.tenant, endpoint)
    assert (state.delivered, state.dead, state.waiting, state.failed_attempts) == (1, 0, 0, 0)
    (delivery,) = await callbacks.deliveries(caller.tenant, endpoint)
    assert [attempt.status for attempt in delivery.attempts] == [200]


async def test_the_endpoints_of_a_dispatcher_that_is_gone_are_free_at_once(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """Its connection is gone as that of a killed process is. It notices too, and records nothing any more."""
    late: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def respond(_: Message) -> web.Response:
        return web.Response(status=await late if len(hook.messages) == 1 else 200)

    hook.respond = respond
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    first, second = (callbacks.dispatcher(lease=timedelta(hours=1)) for _ in range(2))
    fan_out = callbacks.fan_out()
    await caller.submit()
    while await fan_out.once():
        pass
    tasks = [asyncio.create_task(first.run())]
    await hook.got(1)
    tasks.append(asyncio.create_task(second.run()))
    ((number,),) = await query(database, "SELECT holder FROM callback_state WHERE holder IS NOT NULL")
    gone = await query(
        database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE objsubid = 2 AND objid = $1::int8::oid", number
    )
    assert gone == [(True,)]
    await hook.got(2, "another dispatcher sends it")

    async def delivered() -> bool:
        return (await callbacks.endpoint(caller.tenant, endpoint)).delivered == 1

    await until(delivered, "its outcome is recorded")
    late.set_result(500)
    for one in (first, second):
        await within(one.stop())
    await asyncio.gather(*tasks)
    state = await callbacks.endpoint(caller.tenant, endpoint)
    assert (state.delivered, state.waiting, state.failed_attempts) == (1, 0, 0)
    assert hook.messages[0].id == hook.messages[1].id


async def test_an_outcome_needs_the_lease_that_it_was_sent_under(
    database: Database, caller: JobCaller, callbacks: Callbacks, clock: Clock
) -> None:
    """Every statement of a dispatcher names the epoch of its lease."""
    endpoint = await callbacks.add(caller.tenant, "http://127.0.0.1:9/", "job.created")
    await caller.submit()
    await callbacks.fan_out().once()
    async with database.acquire() as connection:
        (old,) = await deliveries.lease(connection, quick=False, full=[], limit=10, length=LEASE, holder=1)
        assert await deliveries.lease(connection, quick=False, full=[], limit=10, length=LEASE, holder=1) == []
        await clock.advance(LEASE + timedelta(seconds=1))
        (new,) = await deliveries.lease(connection, quick=False, full=[], limit=10, length=LEASE, holder=1)
        assert new.epoch > old.epoch
        (delivery,), blocked = await deliveries.read_ready(connection, new, behind=(0, 0), limit=9, max_bytes=1000)
        assert not blocked

        def outcome(lease: deliveries.Lease) -> deliveries.Outcome:
            return deliveries.Outcome(
                lease=lease, key=delivery.key, result="delivered", delay=timedelta(0), tries=1, attempts=()
            )

        assert await deliveries.read_endpoint(connection, old) is None
        assert await deliveries.renew(connection, [old], length=LEASE) == set()
        assert await deliveries.record(connection, [outcome(old)]) == set()
        assert not await deliveries.release(connection, old, arrivals=1, rest=None, failures=0, quick=True)
        assert await deliveries.record(connection, [outcome(new)]) == {(endpoint.id, delivery.key)}
        assert await deliveries.record(connection, [outcome(new)]) == set(), "it no longer exists"
        assert await deliveries.renew(connection, [new], length=LEASE) == {new.key}


async def test_a_lease_does_not_end_while_deliveries_are_added(
    database: Database, caller: JobCaller, callbacks: Callbacks
) -> None:
    """The line reads, finds nothing and releases; an event becomes a delivery in between."""
    await callbacks.add(caller.tenant, "http://127.0.0.1:9/", "job.created")
    await caller.submit()
    fan_out = callbacks.fan_out()
    await fan_out.once()
    async with database.acquire() as connection:
        (lease,) = await deliveries.lease(connection, quick=False, full=[], limit=10, length=LEASE, holder=1)
        target = await deliveries.read_endpoint(connection, lease)
        assert target is not None
        await caller.submit()
        await fan_out.once()
        assert not await deliveries.release(
            connection, lease, arrivals=target.arrivals, rest=None, failures=0, quick=False
        )
        again = await deliveries.read_endpoint(connection, lease)
        assert again is not None
        assert again.arrivals > target.arrivals
        page, _ = await deliveries.read_ready(connection, lease, behind=(0, 0), limit=9, max_bytes=10_000)
        assert len(page) == 2


async def test_an_interrupted_pass_has_no_effect(
    database: Database, caller: JobCaller, callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends after the deliveries were written and before the cursor moves."""
    endpoint = await callbacks.add(caller.tenant, "http://127.0.0.1:9/", "job.created")
    await caller.submit_many(3)
    fan_out = callbacks.fan_out()

    async def dies(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(cursors, "advance", dies)
        with pytest.raises(asyncio.CancelledError):
            await fan_out.once()
    assert await query(database, "SELECT count(*) FROM callback_ready") == [(0,)]
    await asyncio.gather(*(callbacks.fan_out().once() for _ in range(4)))
    await fan_out.once()
    assert await query(database, "SELECT count(*), count(DISTINCT subject) FROM callback_ready") == [(3, 3)]
    assert (await callbacks.endpoint(caller.tenant, endpoint)).waiting == 3


async def test_an_event_that_is_committed_late_is_delivered(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """The transaction draws the id of its event early and commits late, after the cursor has moved on."""
    await callbacks.add(caller.tenant, hook.url, "job.created")
    held = await asyncpg.connect(database.url, server_settings={"search_path": "penstock"})
    try:
        transaction = held.transaction()
        await transaction.start()
        await held.execute(
            "INSERT INTO event (tenant_id, at, kind, subject, data) VALUES ($1, clock(), 'job.created', 'late', '{}')",
            caller.tenant,
        )
        async with callbacks.running():
            job = await caller.submit()
            await hook.got(1)
            await transaction.commit()
            await hook.got(2)
    finally:
        await held.close()
    assert [message.event["subject"] for message in hook.messages] == [str(job.id), "late"]


async def test_the_first_callback_of_a_tenant_misses_no_event(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    """Many jobs name callbacks at the same time, while the duties run and the tenant has no cursor yet."""
    callback = Callback(url=hook.url, events=["job.created"])
    async with callbacks.running():
        jobs = await asyncio.gather(*(caller.submit(callback=callback) for _ in range(50)))
        await hook.got(50)
    assert {message.event["subject"] for message in hook.messages} == {str(job.id) for job in jobs}


async def test_tenants_get_their_own_events_only(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    other = JobCaller(caller.service, await own_tenant(database))
    await callbacks.add(caller.tenant, f"{hook.url}/one", "*")
    await callbacks.add(other.tenant, f"{hook.url}/other", "*")
    async with callbacks.running():
        mine, theirs = await caller.submit(), await other.submit()
        await hook.got(2)
        await callbacks.caught_up()
    assert {(message.path, message.event["subject"]) for message in hook.messages} == {
        ("/one", str(mine.id)),
        ("/other", str(theirs.id)),
    }


async def test_nothing_is_sent_for_a_suspended_tenant(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    await callbacks.add(caller.tenant, hook.url, "job.created")
    other = JobCaller(caller.service, await own_tenant(database))
    theirs = await callbacks.add(other.tenant, f"{hook.url}/other", "job.created")
    await execute(database, "UPDATE tenant SET suspended_at = clock() WHERE id = $1", caller.tenant)
    async with callbacks.running():
        job = await caller.submit()
        await other.submit()
        await hook.got(1)
        await callbacks.caught_up()
        assert [message.path for message in hook.messages] == ["/other"]

        async def recorded() -> bool:
            return (await callbacks.endpoint(other.tenant, theirs)).delivered == 1

        await until(recorded, "its outcome is recorded, before the clock ends the lease under which it was sent")
        await execute(database, "UPDATE tenant SET suspended_at = NULL WHERE id = $1", caller.tenant)
        await clock.advance(timedelta(minutes=2))
        callbacks.poke()
        await hook.got(2)
    assert hook.messages[1].event["subject"] == str(job.id)


async def test_what_waits_is_sent_when_an_endpoint_is_enabled(
    caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    waiting = await caller.submit()
    await callbacks.fan_out().once()
    sender = managing(caller.tenant)
    await callbacks.service.change(sender, endpoint.id, EndpointChange(disabled=True))
    async with callbacks.running():
        await caller.submit()
        await callbacks.caught_up()
        assert hook.messages == []
        await callbacks.service.change(sender, endpoint.id, EndpointChange(disabled=False))
        await hook.got(1)
    assert [message.event["subject"] for message in hook.messages] == [str(waiting.id)]


async def test_a_removed_endpoint_gets_nothing_and_leaves_nothing(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver
) -> None:
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    await caller.submit()
    await callbacks.fan_out().once()
    await callbacks.service.remove(managing(caller.tenant), endpoint.id)
    async with callbacks.running():
        await caller.submit()
        await callbacks.caught_up()
    assert hook.messages == []
    while await callbacks.retention().once():
        pass
    for table in ("callback_endpoint", "callback_state", "callback_ready", "callback_later", "callback_ended"):
        assert await query(database, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_what_is_old_is_given_up_and_deleted(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, clock: Clock
) -> None:
    """A delivery that could not be tried for longer than the schedule is dead, and is kept as long as jobs."""
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created")
    job = submission(callback=Callback(url=f"{hook.url}/named", events=["job.created"]))
    async with callbacks.running():
        await caller.service.of(caller.tenant).submit(job)
        await hook.got(2)

        async def recorded() -> bool:
            return await query(database, "SELECT sum(delivered)::int FROM callback_state") == [(2,)]

        await until(recorded, "both deliveries are recorded")
    await caller.submit()
    await callbacks.fan_out().once()
    await clock.advance(timedelta(hours=30))
    await callbacks.retention().once()
    state = await callbacks.endpoint(caller.tenant, endpoint)
    assert (state.delivered, state.waiting, state.dead) == (1, 0, 1)
    await clock.advance(timedelta(days=8))
    await callbacks.retention().once()
    kept = await callbacks.deliveries(caller.tenant, endpoint)
    assert [delivery.status for delivery in kept] == ["dead"]
    await execute(database, "DELETE FROM job")
    await clock.advance(timedelta(days=40))
    await callbacks.retention().once()
    assert await callbacks.deliveries(caller.tenant, endpoint) == []
    assert await query(database, "SELECT count(*) FROM callback_job") == [(0,)]
    assert await query(database, "SELECT id FROM callback_endpoint") == [(endpoint.id,)]


async def test_jobs_without_callbacks_cost_the_duties_nothing(database: Database, caller: JobCaller) -> None:
    """No tenant has an endpoint: a wake-up by the events of jobs does not even reach the database."""
    async with open_database(database.url) as far:
        duty = Callbacks(far, Path("unused")).fan_out()
        await duty.once()
        await execute(database, "DROP TABLE callback_cursor")
        await caller.submit_many(10)
        for _ in range(100):
            assert not await duty.once()
    assert await query(database, "SELECT count(*) FROM event_position") == [(0,)], "it numbered no event"


async def test_callbacks_are_resolved_while_remembered_ones_are_forgotten(
    caller: JobCaller, callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another submission clears what the process remembers while this one waits for the database."""
    known, new = (Callback(url=f"http://127.0.0.1:9/{name}") for name in ("known", "new"))
    (first,) = await callbacks.targets.resolve(caller.tenant, [known], ["job.completed"])
    name_endpoints = store.name_endpoints

    async def forgetting(*arguments: Any) -> Any:
        callbacks.targets._known.clear()
        return await name_endpoints(*arguments)

    monkeypatch.setattr(store, "name_endpoints", forgetting)
    again, other = await callbacks.targets.resolve(caller.tenant, [known, new], ["job.completed"])
    assert again == first
    assert other != first
