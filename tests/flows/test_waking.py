"""No wake-up is lost: two sessions stepped by statement, one waiting for the other's locks, in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Raw, structs

from penstock.failures import Category
from penstock.flows.kernel.records import Completed, Turn
from penstock.flows.sql import histories
from penstock.flows.sql import store as flow_store
from penstock.jobs.filters import JobFilter
from penstock.jobs.sql import duties, store
from penstock.jobs.sql.rows import Connection
from penstock.jobs.sql.store import Verdict
from penstock.jobs.states import Over, Status
from penstock.jobs.work import ClaimedJob, JobCompletion
from penstock.postgres.pool import Database
from tests.support.databases import query
from tests.support.jobs import JobCaller
from tests.support.runs import ManualRun, home
from tests.support.waiting import until, within

Act = Callable[[Connection], Awaitable[Any]]
BOTH_ORDERS = pytest.mark.parametrize("swapped", [False, True], ids=["in order", "swapped"])


async def step(database: Database, first: Act, second: Act, *, swapped: bool = False) -> tuple[Any, Any]:
    """Run two acts in transactions of their own; the second begins while the first is not committed.

    Returns both results, in the order of the arguments.
    """
    acts = (second, first) if swapped else (first, second)
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(database.acquire()) for _ in range(2)]
        earlier, later = one.transaction(), two.transaction()
        await earlier.start()
        await later.start()
        early = await acts[0](one)
        waiting = asyncio.ensure_future(acts[1](two))
        pid = two.get_server_pid()
        await until(lambda: _blocked_or_done(database, pid, waiting), "the second act waits for the first, or is done")
        await earlier.commit()
        late = await within(waiting)
        await later.commit()
    return (late, early) if swapped else (early, late)


async def _blocked_or_done(database: Database, pid: int, waiting: asyncio.Future[object]) -> bool:
    if waiting.done():
        return True
    return bool(await query(database, "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = $1", pid))


def completing(caller: JobCaller, *jobs: ClaimedJob) -> Act:
    completions = [JobCompletion(id=job.id, epoch=job.epoch, result=Raw(b'"done"')) for job in jobs]
    return lambda connection: store.complete(connection, caller.tenant, completions)


def failing(caller: JobCaller, job: ClaimedJob) -> Act:
    verdict = Verdict(job_id=job.id, outcome=Over(status=Status.FAILED), category=Category.INTERNAL, message="broken")

    async def act(connection: Connection) -> object:
        await store.lock_leases(connection, caller.tenant, [(job.id, job.epoch)])
        return await store.end_attempts(connection, caller.tenant, [verdict])

    return act


async def no_run_waits_with_mail(database: Database) -> None:
    assert not await query(
        database, "SELECT run_id FROM flow_gate WHERE parked_at IS NOT NULL AND (arrived - seen >= need OR urgent)"
    )


async def check(database: Database, run: ManualRun, *, arrived: int) -> None:
    """Check that the run continues: its mail has arrived, and either it is ready, or its runner has it."""
    await no_run_waits_with_mail(database)
    gate = await run.gate()
    assert gate["arrived"] == arrived
    assert not gate["parked"]
    assert await run.home() in {"ready", "lease"}


@BOTH_ORDERS
async def test_a_child_ends_while_its_run_parks(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller, calls=1)
    (child,) = await caller.claim(task_types=["echo"])

    await step(
        database,
        lambda connection: flow_store.park(connection, caller.tenant, [(run.id, run.epoch)]),
        completing(caller, child),
        swapped=swapped,
    )

    await check(database, run, arrived=1)


@BOTH_ORDERS
async def test_a_child_ends_while_a_turn_parks_its_run(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller, calls=2, need=2)
    (child, other) = await caller.claim(2, task_types=["echo"])
    await caller.complete(other)

    committed, _ = await step(
        database,
        lambda connection: run.commit_on(connection, take=1, park=True),
        completing(caller, child),
        swapped=swapped,
    )

    await check(database, run, arrived=2)
    assert committed.parked is not swapped


async def test_the_last_two_children_end_at_once(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=2, need=2, park=True)
    one, two = await caller.claim(2, task_types=["echo"])

    first, second = await step(database, completing(caller, one), completing(caller, two))

    await check(database, run, arrived=2)
    assert (list(first.mailed.woken), list(second.mailed.woken)) == ([], ["f@1"])


async def test_the_first_of_two_failures_wakes_a_run_once(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=2, need=2, park=True)
    one, two = await caller.claim(2, task_types=["echo"])

    (_, told), (_, told_later) = await step(database, failing(caller, one), failing(caller, two))

    await check(database, run, arrived=2)
    assert (list(told.woken), list(told_later.woken)) == (["f@1"], [])


@BOTH_ORDERS
async def test_a_signal_comes_while_its_run_parks(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller, calls=5, need=5)

    await step(
        database,
        lambda connection: flow_store.park(connection, caller.tenant, [(run.id, run.epoch)]),
        lambda connection: flow_store.signal(connection, caller.tenant, run.id, "go", Raw(b"1"), key=None),
        swapped=swapped,
    )

    await check(database, run, arrived=1)


@BOTH_ORDERS
async def test_a_child_ends_while_a_signal_comes(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller, calls=1, park=True)
    (child,) = await caller.claim(task_types=["echo"])

    await step(
        database,
        completing(caller, child),
        lambda connection: flow_store.signal(connection, caller.tenant, run.id, "go", Raw(b"1"), key=None),
        swapped=swapped,
    )

    await check(database, run, arrived=2)
    assert await query(database, "SELECT id FROM flow_mail WHERE run_id = $1 ORDER BY id", run.id) == [(1,), (2,)]


@BOTH_ORDERS
async def test_a_run_is_cancelled_while_it_issues_children(
    database: Database, caller: JobCaller, swapped: bool
) -> None:
    run = await ManualRun.begin(caller)

    await step(
        database,
        lambda connection: run.commit_on(connection, calls=1, park=True),
        lambda connection: store.cancel(connection, caller.tenant, [run.id]),
        swapped=swapped,
    )

    await check(database, run, arrived=1)
    assert (await caller.get(run.id)).cancel_requested_at is not None


@BOTH_ORDERS
async def test_a_run_is_cancelled_while_it_ends(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller, calls=1)

    await step(
        database,
        run.end_on,
        lambda connection: store.cancel(connection, caller.tenant, [run.id]),
        swapped=swapped,
    )

    assert await run.home() == "done"
    assert await caller.status(run.id) is Status.COMPLETED
    assert await query(database, "SELECT job_id FROM flow_doomed WHERE job_id = $1", run.children[0])


@BOTH_ORDERS
async def test_a_signal_comes_while_a_run_ends(database: Database, caller: JobCaller, swapped: bool) -> None:
    run = await ManualRun.begin(caller)

    _, signalled = await step(
        database,
        run.end_on,
        lambda connection: flow_store.signal(connection, caller.tenant, run.id, "go", Raw(b"1"), key=None),
        swapped=swapped,
    )

    assert await run.home() == "done"
    assert (signalled.id is None) is not swapped


async def test_a_stale_lease_commits_no_turn(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=1)
    stale = await run.next_turn(calls=1)
    await query(database, "UPDATE lease SET epoch = epoch + 1 WHERE job_id = $1 RETURNING 1", run.id)

    async with database.acquire() as connection:
        (commit,) = await flow_store.commit(connection, caller.tenant, [stale])

    assert commit.outcome is flow_store.Stored.STALE
    assert await query(database, "SELECT count(*) FROM flow_step WHERE run_id = $1", run.id) == [(1,)]
    assert await query(database, "SELECT count(*) FROM job WHERE parent_id = $1", run.id) == [(1,)]


async def test_a_turn_whose_commit_was_not_confirmed_may_be_repeated(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller)
    turn = await run.next_turn(calls=1, record=b"7")

    async with database.acquire() as connection:
        (first,) = await flow_store.commit(connection, caller.tenant, [turn])
        (second,) = await flow_store.commit(connection, caller.tenant, [turn])

    assert (first.outcome, second.outcome) == (flow_store.Stored.COMMITTED, flow_store.Stored.REPEATED)
    assert await query(database, "SELECT count(*) FROM job WHERE parent_id = $1", run.id) == [(1,)]
    assert await query(database, "SELECT count(*) FROM flow_mail WHERE run_id = $1", run.id) == [(1,)]


async def test_mail_that_comes_before_recorded_values_refuses_the_turn_that_has_consumed_them(
    database: Database, caller: JobCaller
) -> None:
    run = await ManualRun.begin(caller)
    turn = await run.next_turn(record=b"7")
    ahead = Turn(number=turn.turn.number + 1, taken=[1], first_no=1, outcome=Completed(result=Raw(b"7")))
    both = replace(turn, turn=structs.replace(turn.turn, recorded_at=5.0, then=ahead), seen=1)

    async with database.acquire() as connection:
        await flow_store.signal(connection, caller.tenant, run.id, "go", Raw(b"1"), key=None)
        (overtaken,) = await flow_store.commit(connection, caller.tenant, [both])
        stored = await histories.turns(connection, caller.tenant, [run.id])
        (alone,) = await flow_store.commit(connection, caller.tenant, [turn])

    assert overtaken.outcome is flow_store.Stored.OVERTAKEN
    assert [one.number for one in stored[run.id]] == [0], "nothing of it is stored"
    assert (alone.outcome, alone.arrived) == (flow_store.Stored.COMMITTED, 2)
    assert await run.home() == "lease"


async def test_a_turn_and_the_one_that_consumes_its_values_are_stored_together(
    database: Database, caller: JobCaller
) -> None:
    run = await ManualRun.begin(caller)
    turn = await run.next_turn(record=b"7")
    ahead = Turn(number=turn.turn.number + 1, taken=[1], first_no=1)
    both = replace(turn, turn=structs.replace(turn.turn, recorded_at=5.5, then=ahead), seen=1)

    async with database.acquire() as connection:
        (first,) = await flow_store.commit(connection, caller.tenant, [both])
        (second,) = await flow_store.commit(connection, caller.tenant, [both])
        stored = await histories.turns(connection, caller.tenant, [run.id])
        mail = await histories.mail(connection, caller.tenant, [(run.id, 0)])

    assert (first.outcome, second.outcome) == (flow_store.Stored.COMMITTED, flow_store.Stored.REPEATED)
    assert [(one.number, one.taken) for one in stored[run.id]] == [(0, []), (1, []), (2, [1])]
    assert stored[run.id][2].at == mail[run.id][0].at == 5.5


# Each terminal state of a child


async def _complete(caller: JobCaller, child: ClaimedJob) -> None:
    await caller.complete(child)


async def _fail(caller: JobCaller, child: ClaimedJob) -> None:
    await caller.fail(child, Category.BAD_INPUT, message="no")


async def _cancel_running(caller: JobCaller, child: ClaimedJob) -> None:
    await caller.cancel(child.id)
    await caller.fail(child, Category.CANCELLED)


async def _lose(caller: JobCaller, child: ClaimedJob) -> None:
    database = caller.service._shared.database
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE lease SET worker_id = 'dead', losses = 9 WHERE job_id = $1", child.id)
        (held,) = await duties.lock_leases_of(connection, ["dead"], limit=10)
        verdict = Verdict(
            job_id=held.job_id, outcome=Over(status=Status.FAILED), category=Category.WORKER_LOST, message="lost"
        )
        await store.end_attempts(connection, caller.tenant, [verdict])


ENDS = {
    "complete": (_complete, "completed", None),
    "fail": (_fail, "failed", "bad_input"),
    "cancel": (_cancel_running, "cancelled", "cancelled"),
    "lose": (_lose, "failed", "worker_lost"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_every_end_of_a_running_child_wakes_its_run(database: Database, caller: JobCaller, how: str) -> None:
    act, status, category = ENDS[how]
    run = await ManualRun.begin(caller, calls=1, park=True)
    assert await run.home() == "parked"
    assert await caller.status(run.id) is Status.WAITING
    child = await caller.claim_one(task_types=["echo"])

    await act(caller, child)

    assert await run.home() == "ready"
    assert await query(database, "SELECT kind, no, status, category FROM flow_mail WHERE run_id = $1", run.id) == [
        ("ended", 0, status, category)
    ]
    assert (await run.gate())["children"] == 0


@pytest.mark.parametrize("how", ["single", "by filter"])
async def test_cancelling_a_pending_child_wakes_its_run(database: Database, caller: JobCaller, how: str) -> None:
    run = await ManualRun.begin(caller, calls=1, park=True)

    if how == "single":
        await caller.cancel(run.children[0])
    else:
        await caller.service.of(caller.tenant).cancel_where(JobFilter(task_type="echo"), dry_run=False)

    assert await run.home() == "ready"
    assert await query(database, "SELECT kind, status FROM flow_mail WHERE run_id = $1", run.id) == [
        ("ended", "cancelled")
    ]
    assert await home(caller, run.children[0]) == "done"


async def test_the_states_of_a_run_are_counted(caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=1, park=True)
    stats = await caller.service.of(caller.tenant).stats()
    assert (stats.totals.waiting, stats.totals.running, stats.totals.pending) == (1, 0, 1)

    await caller.complete(await caller.claim_one(task_types=["echo"]))
    await run.claim_again()

    stats = await caller.service.of(caller.tenant).stats()
    assert (stats.totals.waiting, stats.totals.running, stats.totals.pending) == (0, 1, 0)
    assert (await caller.get(run.id)).attempt == 1, "waiting does not count as an attempt"


async def test_the_last_items_of_a_block_end_at_once(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller)
    await query(
        database,
        "INSERT INTO flow_block (tenant_id, run_id, first, items, unfinished) VALUES ($1, $2, 0, 2, 2) RETURNING 1",
        caller.tenant,
        run.id,
    )
    await caller.submit_many(2)
    one, two = await caller.claim(2, task_types=["echo"])
    for item, job in enumerate((one, two)):
        await query(
            database,
            "UPDATE lease SET parent_id = $1, step_no = $2 WHERE job_id = $3 RETURNING 1",
            run.id,
            -1 - item,
            job.id,
        )

    await step(database, completing(caller, one), completing(caller, two))

    assert await query(database, "SELECT unfinished FROM flow_block WHERE run_id = $1", run.id) == [(0,)]
    assert (await run.gate())["arrived"] == 1


async def test_a_run_starts_once_however_often_it_waits(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller, calls=2, park=True)
    for child in await caller.claim(2, task_types=["echo"]):
        await caller.complete(child)
        await run.claim_again()
        await run.commit(take=1, park=True)
    await query(database, "SELECT position_events(1000, interval '0')")

    started = await query(
        database, "SELECT count(*) FROM event WHERE kind = 'job.started' AND $1 = ANY (job_ids)", run.id
    )

    assert started == [(1,)]
    assert (await caller.get(run.id)).attempt == 0, "of the parked run: no attempt is in progress"


@pytest.mark.parametrize("keys", [(None, None), ("one", "two")])
async def test_the_last_place_for_unread_mail_goes_to_one_of_two_signals(
    database: Database, caller: JobCaller, monkeypatch: pytest.MonkeyPatch, keys: tuple[str | None, str | None]
) -> None:
    monkeypatch.setattr(flow_store, "MAX_UNREAD", 1)
    run = await ManualRun.begin(caller)
    first, second = (signalling(caller, run, key) for key in keys)

    sent = await step(database, first, second)

    assert [(one.id, one.full) for one in sent] == [(1, False), (None, True)]
    await check(database, run, arrived=1)


async def test_a_signal_that_is_repeated_at_the_same_time_comes_once(database: Database, caller: JobCaller) -> None:
    run = await ManualRun.begin(caller)

    sent = await step(database, signalling(caller, run, "once"), signalling(caller, run, "once"))

    assert [(one.id, one.repeated) for one in sent] == [(1, False), (1, True)]
    await check(database, run, arrived=1)


def signalling(caller: JobCaller, run: ManualRun, key: str | None) -> Act:
    return lambda connection: flow_store.signal(connection, caller.tenant, run.id, "go", Raw(b"1"), key=key)
