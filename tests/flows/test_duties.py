"""Timers fire, events arrive, and jobs that no run waits for are cancelled."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import Raw

from penstock.errors import WrongState
from penstock.failures import Category
from penstock.flows.duties import FlowKeeper
from penstock.flows.kernel.records import Failed, Fault, OnParentEnd
from penstock.flows.sql import histories
from penstock.jobs.sql import store
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, query
from tests.support.jobs import JobCaller
from tests.support.runs import ManualRun, home


@pytest.fixture
def keeper(database: Database, caller: JobCaller) -> FlowKeeper:
    return FlowKeeper(database, caller.service.wakeups)


async def mail(database: Database, run: ManualRun) -> list[tuple[object, ...]]:
    return await query(database, "SELECT kind, no, value::text FROM flow_mail WHERE run_id = $1 ORDER BY id", run.id)


async def publish(database: Database, caller: JobCaller, kind: str, data: str) -> None:
    await execute(
        database,
        "INSERT INTO event (tenant_id, at, kind, subject, data) VALUES ($1, clock(), $2, 'order/1', $3)",
        caller.tenant,
        kind,
        Raw(data.encode()),
    )
    await execute(database, "SELECT position_events(1000, interval '0')")


async def now(database: Database) -> float:
    ((seconds,),) = await query(database, "SELECT extract(epoch FROM clock())::float8")
    return float(seconds)


async def test_a_timer_wakes_a_parked_run_once(
    database: Database, caller: JobCaller, keeper: FlowKeeper, clock: Clock
) -> None:
    run = await ManualRun.begin(caller)
    await run.commit(timer=await now(database) + 60, park=True)
    await keeper.once()
    assert await run.home() == "parked"
    assert keeper.due_in is not None

    await clock.advance(timedelta(seconds=61))
    await keeper.once()
    await keeper.once()

    assert await run.home() == "ready"
    assert await mail(database, run) == [("fired", 0, None)]


async def test_a_dropped_timer_does_not_fire(
    database: Database, caller: JobCaller, keeper: FlowKeeper, clock: Clock
) -> None:
    run = await ManualRun.begin(caller)
    await run.commit(timer=await now(database) + 60)
    await run.commit(dropped=[0], park=True)

    await clock.advance(timedelta(seconds=61))
    await keeper.once()

    assert await run.home() == "parked"


async def test_an_event_that_came_before_the_wait_ends_it(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    await publish(database, caller, "paid", '{"order": 0}')
    run = await ManualRun.begin(caller)
    await publish(database, caller, "paid", '{"order": 1}')

    await run.commit(event="paid", park=True)
    await keeper.once()

    assert await mail(database, run) == [("ended", 0, '{"order": 1}')]
    assert await run.home() == "ready"


async def test_a_later_event_ends_the_waits_that_it_matches(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    run, other = await ManualRun.begin(caller), await ManualRun.begin(caller)
    await run.commit(event="paid", match=b'{"order": 7}', park=True)
    await other.commit(event="paid", match=b'{"order": 8}', park=True)
    await keeper.once()

    await publish(database, caller, "sent", '{"order": 7}')
    await publish(database, caller, "paid", '{"order": 7, "by": "card"}')
    await publish(database, caller, "paid", '{"order": 7, "by": "cash"}')
    await keeper.once()

    assert await mail(database, run) == [("ended", 0, '{"order": 7, "by": "card"}')]
    assert await mail(database, other) == []
    assert (await run.home(), await other.home()) == ("ready", "parked")


async def test_the_end_of_a_run_cancels_its_children_except_abandoned_ones(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    run = await ManualRun.begin(caller, calls=1)
    await run.commit(calls=1, on_parent_end=OnParentEnd.ABANDON)
    async with database.acquire() as connection, connection.transaction():
        await run.end_on(connection)

    await keeper.once()

    assert await caller.status(run.children[0]) is Status.CANCELLED
    assert await caller.status(run.children[1]) is Status.PENDING
    assert await query(database, "SELECT 1 FROM flow_doomed WHERE tenant_id = $1", caller.tenant) == []


async def test_a_running_child_that_was_dropped_gets_a_request_to_stop(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    run = await ManualRun.begin(caller, calls=1)
    child = await caller.claim_one(task_types=["echo"])
    await run.commit(dropped=[0])

    await keeper.once()

    assert (await caller.get(child.id)).cancel_requested_at is not None
    assert await home(caller, child.id) == "lease"


async def test_a_child_flow_that_has_begun_is_cancelled_by_mail(
    database: Database, caller: JobCaller, keeper: FlowKeeper
) -> None:
    parent = await ManualRun.begin(caller)
    await parent.commit(calls=1, flow=True)
    child = ManualRun(caller, await caller.claim_one(task_types=["flow"]))
    await child.commit(park=True)

    await parent.commit(dropped=[0], park=True)
    await keeper.once()

    assert await mail(database, child) == [("cancel", None, None)]
    assert await child.home() == "ready"


async def test_the_end_of_a_child_flow_is_mail_of_its_parent(database: Database, caller: JobCaller) -> None:
    parent = await ManualRun.begin(caller)
    await parent.commit(calls=1, flow=True, park=True)
    child = ManualRun(caller, await caller.claim_one(task_types=["flow"]))
    await child.commit()

    async with database.acquire() as connection, connection.transaction():
        await child.end_on(connection)

    assert await mail(database, parent) == [("ended", 0, "1")]
    assert await parent.home() == "ready"
    assert (await parent.gate())["children"] == 0


async def test_a_large_result_is_not_copied_into_mail(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=1, park=True)
    child = await caller.claim_one(task_types=["echo"])
    large = b'"' + b"x" * 9000 + b'"'
    await caller.complete(child, large)

    assert await mail(database, run) == [("ended", 0, None)]
    async with database.acquire() as connection:
        found = await histories.mail(connection, caller.tenant, [(run.id, 0)])
    (one,) = found[run.id]
    assert one.value is not None
    assert bytes(one.value) == large


async def test_the_failed_child_of_an_unfinished_run_cannot_be_retried(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=1)
    child = await caller.claim_one(task_types=["echo"])
    await caller.fail(child, Category.BAD_INPUT)

    with pytest.raises(WrongState, match="has not ended"):
        await caller.retry(child.id)

    await run.commit(take=1, outcome=Failed(fault=Fault(category=Category.INTERNAL, message="no")))
    async with database.acquire() as connection:
        retried, _ = await store.retry(connection, caller.tenant, [child.id])
    assert set(retried) == {child.id}


@pytest.mark.parametrize(
    ("match", "data"),
    [
        (b"{}", '{"n": 1}'),
        (b'{"n": 7}', '{"n": 7.0, "other": 1}'),
        (b'{"n": 7e2}', '{"n": 700}'),
        (b'{"n": 1e300}', '{"n": 1e300}'),
        (b'{"text": "caf\xc3\xa9"}', '{"text": "caf\u00e9"}'),
        (b'{"text": "caf\xc3\xa9"}', '{"text": "caf\\u00e9"}'),
        (b'{"text": "two\\nlines \\"quoted\\" \\\\"}', '{"text": "two\\u000alines \\u0022quoted\\u0022 \\\\"}'),
        (b'{"done": true, "text": null}', '{"text": null, "done": true}'),
        (b'{"text": "7"}', '{"text": "7"}'),
        (b'{"within": {"n": 7}}', '{"within": {"n": 7, "m": 8}}'),
        (b'{"list": [2]}', '{"list": [1, 2, 3]}'),
        (b'{"a=b": "c"}', '{"a=b": "c"}'),
        (b'{"text": "xx"}', '{"text": "xx", "long": "' + "y" * 100_000 + '"}'),
    ],
)
async def test_a_wait_is_found_by_whatever_it_states(
    database: Database, caller: JobCaller, keeper: FlowKeeper, match: bytes, data: str
) -> None:
    run, other = await ManualRun.begin(caller), await ManualRun.begin(caller)
    await run.commit(event="paid", match=match, park=True)
    await other.commit(event="paid", match=b'{"none": "such"}', park=True)
    await keeper.once()

    await publish(database, caller, "paid", data)
    await keeper.once()

    assert (await run.home(), await other.home()) == ("ready", "parked")
