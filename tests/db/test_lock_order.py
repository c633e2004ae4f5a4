"""Many statements at once over the same jobs: no deadlock, and no job given to two workers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from penstock.events import store as event_log
from penstock.events.position import START
from penstock.failures import Category
from penstock.jobs.admissions import admit
from penstock.jobs.key_rules import arrange
from penstock.jobs.sql import duties, history, keys, names, queues, reading, store
from penstock.jobs.sql.rows import Connection, NewJob
from penstock.jobs.sql.store import Verdict
from penstock.jobs.states import Again
from penstock.jobs.work import JobCompletion, JobHeartbeat
from penstock.postgres import partitions
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from tests.support.databases import open_database, query, snapshot
from tests.support.jobs import JobCaller, claim_rows, job_service, submission
from tests.support.keys import limit
from tests.support.waiting import until, within

Held = dict[UUID, int]  # epoch by running job, as far as the test knows
ROUNDS = 250
AT_ONCE = 8


class Crowd:
    """Workers and callers that do everything at once to the same few jobs."""

    def __init__(self, tenant: TenantId) -> None:
        self.tenant = tenant
        self.held: Held = {}
        self.all: list[UUID] = []
        self.random = random.Random(7)

    def some(self) -> list[tuple[UUID, int]]:
        """Return leases in any order, some stale, some unknown."""
        return [(job_id, self.held.get(job_id, 1)) for job_id in self.some_ids()]

    def some_ids(self) -> list[UUID]:
        return self.random.sample(self.all, k=self.random.randint(2, len(self.all)))

    async def claim(self, connection: Connection) -> None:
        limit = self.random.randint(1, 30)
        rows = await claim_rows(connection, self.tenant, limit=limit, from_start=True)
        self.held |= {row["job_id"]: row["epoch"] for row in rows}

    async def heartbeat(self, connection: Connection) -> None:
        beats = [JobHeartbeat(id=job_id, epoch=epoch) for job_id, epoch in self.some()]
        await store.heartbeat(connection, self.tenant, beats)

    async def complete(self, connection: Connection) -> None:
        done = [JobCompletion(id=job_id, epoch=epoch) for job_id, epoch in self.some()[:5]]
        await store.complete(connection, self.tenant, done)

    async def fail(self, connection: Connection) -> None:
        async with connection.transaction():
            held = await store.lock_leases(connection, self.tenant, self.some())
            again = Again(delay=timedelta(0), failures=0, losses=0)
            verdicts = [
                Verdict(job_id=lease.job_id, outcome=again, category=Category.SHUTDOWN, message="") for lease in held
            ]
            if verdicts:
                await store.end_attempts(connection, self.tenant, verdicts)

    async def cancel(self, connection: Connection) -> None:
        await store.cancel(connection, self.tenant, self.some_ids()[:3])

    async def retry(self, connection: Connection) -> None:
        await store.retry(connection, self.tenant, self.some_ids())

    async def rescue(self, connection: Connection) -> None:
        async with connection.transaction():
            held = await duties.lock_leases_of(connection, ["w"], limit=20)
            again = Again(delay=timedelta(seconds=1), failures=0, losses=0)
            verdicts = [
                Verdict(job_id=lease.job_id, outcome=again, category=Category.WORKER_LOST, message="") for lease in held
            ]
            if verdicts:
                await store.end_attempts(connection, self.tenant, verdicts)

    async def promote(self, connection: Connection) -> None:
        await duties.promote(connection, limit=50)

    async def expire(self, connection: Connection) -> None:
        await _set_expiry(connection, self.tenant, self.some_ids()[:10])
        await queues.expire(connection, limit=20)

    async def admit(self, connection: Connection) -> None:
        await admit(connection, None, await keys.blocked_keys(connection, (0, ""), limit=100))

    async def change_the_rule(self, connection: Connection) -> None:
        queue = ("echo", "small")
        async with connection.transaction():
            change = await keys.note_change(connection, self.tenant, queue)
            await keys.set_rule(connection, self.tenant, queue, self.random.randint(1, 20), {})
        await arrange(connection, None, change)

    async def roll_up(self, connection: Connection) -> None:
        await duties.roll_up(connection)

    async def raise_hints(self, connection: Connection) -> None:
        await duties.raise_hints(connection)


async def test_statements_that_meet_on_the_same_jobs_in_opposite_orders_never_deadlock(
    alone: JobCaller, fresh: Database
) -> None:
    crowd = Crowd(alone.tenant)
    deeds: list[Callable[[Connection], Awaitable[None]]] = [
        crowd.claim,
        crowd.claim,
        crowd.heartbeat,
        crowd.complete,
        crowd.fail,
        crowd.cancel,
        crowd.retry,
        crowd.rescue,
        crowd.promote,
        crowd.expire,
        crowd.roll_up,
        crowd.raise_hints,
        crowd.admit,
        crowd.admit,
        crowd.change_the_rule,
    ]
    await limit(alone, 5)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(fresh.acquire()) for _ in range(AT_ONCE - 1)]
        for connection in connections:
            await connection.execute("SET deadlock_timeout = '20ms'")
        for _ in range(ROUNDS):
            if len(await query(fresh, "SELECT 1 FROM done")) > len(crowd.all) // 2:
                crowd.all = crowd.all[-10:]
            if missing := 60 - len(crowd.all):
                crowd.all += [job.id for job in await alone.submit_many(missing // 2)]
                crowd.all += [job.id for job in await alone.submit_many(-(-missing // 2), concurrency_key="a")]
            chosen = crowd.random.choices(deeds, k=len(connections))
            await asyncio.gather(*(deed(connection) for deed, connection in zip(chosen, connections, strict=True)))
    await _assert_each_job_lies_in_one_place(fresh)


async def _set_expiry(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> None:
    """Let jobs expire, in this order. Rows are inserted in the order of ids, so that two calls cannot deadlock."""
    await connection.execute(
        "INSERT INTO expiry (tenant_id, job_id, expires_at)"
        " SELECT $1, x.job_id, clock() - interval '1 hour' + x.n * interval '1 second'"
        " FROM unnest($2::uuid[]) WITH ORDINALITY AS x(job_id, n) ORDER BY x.job_id ON CONFLICT DO NOTHING",
        tenant,
        job_ids,
    )


Leases = Sequence[tuple[UUID, int]]


async def _beat(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await store.heartbeat(connection, tenant, [JobHeartbeat(id=job_id, epoch=epoch) for job_id, epoch in leases])


async def _complete(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await store.complete(connection, tenant, [JobCompletion(id=job_id, epoch=epoch) for job_id, epoch in leases])


async def _lock(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await store.lock_leases(connection, tenant, leases)


async def _cancel(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await store.cancel(connection, tenant, [job_id for job_id, _ in leases])


async def _retry(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await store.retry(connection, tenant, [job_id for job_id, _ in leases])


async def _expire(connection: Connection, tenant: TenantId, leases: Leases) -> None:
    await _set_expiry(connection, tenant, [job_id for job_id, _ in leases])
    await queues.expire(connection, limit=100)


ORDERED = [
    (_beat, "lease"),
    (_complete, "lease"),
    (_lock, "lease"),
    (_cancel, "lease"),
    (_cancel, "ready"),
    (_cancel, "later"),
    (_expire, "ready"),
    (_expire, "later"),
    (_retry, "lease"),
    (_retry, "done"),
]


@pytest.mark.parametrize(("statement", "table"), ORDERED, ids=lambda part: getattr(part, "__name__", part).strip("_"))
async def test_a_statement_over_many_jobs_locks_them_in_id_order_whatever_order_they_are_named_in(
    alone: JobCaller, fresh: Database, statement: Callable[..., Awaitable[None]], table: str
) -> None:
    """While another transaction holds the lowest id, the statement may not have locked any other row."""
    leases = await _jobs_in(table, alone)
    first, *others = sorted(leases)
    lock = f"SELECT job_id FROM {table} WHERE job_id = ANY ($1::uuid[]) FOR UPDATE"
    async with fresh.acquire() as holder, fresh.acquire() as connection, fresh.acquire() as prober:
        transaction = holder.transaction()
        await transaction.start()
        await holder.fetch(lock, [first[0]])
        pid = connection.get_server_pid()
        work = asyncio.ensure_future(statement(connection, alone.tenant, [*reversed(others), first]))

        async def waits() -> bool:
            found = await prober.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1", pid)
            return bool(found)

        await until(waits, "the statement waits for the first job")
        async with prober.transaction():
            free = await prober.fetch(f"{lock} SKIP LOCKED", [job_id for job_id, _ in others])
        await transaction.rollback()
        await within(work)
    assert {row["job_id"] for row in free} == {job_id for job_id, _ in others}


async def _jobs_in(table: str, caller: JobCaller) -> Leases:
    """Return some jobs of this table, with the epochs of those that run."""
    run_at = datetime.now(UTC) + timedelta(days=1) if table == "later" else None
    made = await caller.submit_many(6, run_at=run_at, max_attempts=1)
    claimed = await caller.claim(6) if table in {"lease", "done"} else []
    if table == "done":
        await asyncio.gather(*(caller.fail(job) for job in claimed))
    epochs = {job.id: job.epoch for job in claimed}
    return [(job.id, epochs.get(job.id, 1)) for job in made]


async def test_the_whole_service_under_load_loses_and_duplicates_nothing(alone: JobCaller, fresh: Database) -> None:
    async with open_database(fresh.url) as far, job_service(far) as service:
        callers = [alone, JobCaller(service, alone.tenant)]
        made = await alone.submit_many(150)
        ids = [job.id for job in made]

        async def worker(caller: JobCaller) -> None:
            while jobs := await caller.claim(10):
                await asyncio.gather(*(caller.beat(job) for job in reversed(jobs)))
                states = [caller.complete(job) for job in jobs]
                await asyncio.gather(*states, return_exceptions=True)

        async def meddler(caller: JobCaller, turn: int) -> None:
            picked = random.Random(turn)
            for job_id in picked.sample(ids, 30):
                change = caller.cancel(job_id) if picked.random() < 0.5 else caller.retry(job_id)
                await asyncio.gather(change, return_exceptions=True)

        await asyncio.gather(
            *(worker(callers[turn % 2]) for turn in range(4)), *(meddler(callers[turn % 2], turn) for turn in range(4))
        )
        await worker(alone)
    await _assert_each_job_lies_in_one_place(fresh)
    tables = await snapshot(fresh)
    assert len(tables["ready"]) == len(tables["later"]) == 0
    stats = (await alone.service.of(alone.tenant).stats()).totals
    assert stats.completed + stats.cancelled + stats.running == 150
    assert stats.completed > 0


async def test_four_claimers_at_once_are_never_given_the_same_job(alone: JobCaller, fresh: Database) -> None:
    for priority in (-1, 0, 1):
        await alone.submit_many(800, priority=priority)
    given: list[UUID] = []

    async def claimer(number: int) -> None:
        picked = random.Random(number)
        async with open_database(fresh.url, max_size=2) as database:
            while True:
                async with database.acquire() as connection:
                    rows = await claim_rows(
                        connection, alone.tenant, limit=picked.randint(1, 20), worker_id=f"{number}"
                    )
                if not rows:
                    return
                given.extend(row["job_id"] for row in rows)

    await asyncio.gather(*(claimer(number) for number in range(4)))
    assert len(given) == len(set(given)) == 2400
    epochs = await query(fresh, "SELECT count(DISTINCT epoch) FROM lease")
    assert epochs == [(2400,)]


async def test_partitions_come_and_go_under_load_without_harming_a_statement(alone: JobCaller, fresh: Database) -> None:
    """Dropping and creating days locks whole tables, but it is retention that gives way, not the callers."""
    stopping = asyncio.Event()
    errors: list[BaseException] = []

    async def load(number: int) -> None:
        async with open_database(fresh.url, max_size=1) as database:
            names = await _names(database, alone.tenant)
            while not stopping.is_set():
                try:
                    async with database.acquire() as connection:
                        await _one_life(connection, alone.tenant, names)
                except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    errors.append(error)

    crowd = [asyncio.create_task(load(number)) for number in range(4)]
    today = datetime.now(UTC).date()
    dropped = 0
    try:
        async with open_database(fresh.url, max_size=1) as database, database.acquire() as connection:
            for ahead in range(8, 14):
                for _ in range(20):
                    try:
                        async with connection.transaction():
                            await connection.execute("SET LOCAL lock_timeout = '400ms'")
                            await connection.fetchval("SELECT ensure_day($1)", today + timedelta(days=ahead))
                        dropped += await connection.fetchval(
                            "SELECT drop_day($1, now()) IS NOT NULL", today + timedelta(days=ahead)
                        )
                        break
                    except asyncpg.LockNotAvailableError:
                        continue
            await partitions.make_room(connection)
    finally:
        stopping.set()
        await asyncio.gather(*crowd)
    assert errors == []
    assert dropped >= 1


async def _names(database: Database, tenant: TenantId) -> tuple[int, int, int]:
    async with database.acquire() as connection:
        series = await names.resolve_series(connection, tenant, [("tests", "echo", "small")])
        lanes = await names.resolve_lanes(connection, tenant, [("echo", "small", 0, False)])
        submitters = await names.resolve_submitters(connection, tenant, [("", "")])
    return series["tests", "echo", "small"], lanes["echo", "small", 0, False], submitters["", ""]


async def _one_life(connection: Connection, tenant: TenantId, names: tuple[int, int, int]) -> None:
    """Take one job from creation to its end by the statements alone, with the reads around it."""
    series_id, lane_id, submitter_id = names
    new = NewJob(
        id=uuid7(),
        series_id=series_id,
        lane_id=lane_id,
        submitter_id=submitter_id,
        max_attempts=3,
        submission=submission(),
    )
    await store.create(connection, tenant, [new])
    rows = await claim_rows(connection, tenant, limit=1)
    await reading.get(connection, tenant, [new.id])
    await store.retry(connection, tenant, [new.id])
    rows += await claim_rows(connection, tenant, limit=1)
    completions = [JobCompletion(id=row["job_id"], epoch=row["epoch"]) for row in rows]
    await store.complete(connection, tenant, completions)
    await store.find_finished(connection, tenant, [new.id])
    await history.read_job_events(connection, tenant, new.id, row_id=0)
    await event_log.position_events(connection)
    await event_log.read_events(connection, tenant, behind=START)


async def _assert_each_job_lies_in_one_place(database: Database) -> None:
    torn = await query(
        database,
        """SELECT id, count(p.place) FROM job LEFT JOIN (
               SELECT job_id, 'ready' FROM ready UNION ALL SELECT job_id, 'later' FROM later
               UNION ALL SELECT job_id, 'lease' FROM lease UNION ALL SELECT job_id, 'done' FROM done
           ) AS p(job_id, place) ON p.job_id = job.id GROUP BY id HAVING count(p.place) <> 1""",
    )
    assert torn == []
