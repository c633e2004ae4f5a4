"""The plans of hot statements on a filled database: bounded index scans, few rows read, however many there are.

The statements run as our sessions run them: with the settings of the pool, as prepared statements with generic plans.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from penstock.events import store as event_log
from penstock.jobs import usage
from penstock.jobs.service import JobService
from penstock.jobs.sql import duties, history, idempotency, keys, names, queues, reading, store
from penstock.jobs.sql import why as explanations
from penstock.jobs.usage import Usage
from penstock.postgres.pool import Database
from penstock.postgres.queries import Statement
from penstock.tenants.principal import TenantId
from tests.support.databases import execute, open_database, own_database, own_tenant
from tests.support.jobs import JobCaller, job_service
from tests.support.keys import limit, settled

DONE, READY, LEASED, LATER = 50_000, 10_000, 20, 500
BIG = ("job", "done", "ready", "later", "attempt", "event", "idempotency", "expiry")
USAGE = (usage.stored([Usage(provider="p", model="m", prompt_tokens=1)]) or b"").decode()
LIMIT = 10
MAX_ID, MIN_ID = UUID(int=2**128 - 1), UUID(int=0)


class Filled:
    """A database that holds many jobs in every state, and one caller of it."""

    def __init__(self, database: Database, service: JobService, tenant: TenantId) -> None:
        self.database = database
        self.caller = JobCaller(service, tenant)
        self.tenant = tenant
        self.done: list[UUID] = []
        self.ready: list[UUID] = []
        self.leased: list[tuple[UUID, int]] = []


@pytest.fixture(scope="module")
async def filled(postgres_server: Any) -> AsyncIterator[Filled]:
    """A database with enough of everything to reveal a plan that reads too much."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(own_database(postgres_server))
        database = await stack.enter_async_context(open_database(url))
        service = await stack.enter_async_context(job_service(database))
        filled = Filled(database, service, await own_tenant(database))
        for number in range(DONE // 10_000):
            made = await filled.caller.submit_many(
                10_000,
                owner_ref=f"ref{number}",
                user_id=f"user{number}",
                concurrency_key=f"key{number}",
                priority=number,
            )
            filled.done += [job.id for job in made]
        await execute(database, _FINISH_ALL)
        filled.ready = [job.id for job in await filled.caller.submit_many(READY)]
        later = datetime.fromisoformat("2099-01-01T00:00:00+00:00")
        await filled.caller.submit_many(LATER, run_at=later)
        filled.leased = [(job.id, job.epoch) for job in await filled.caller.claim(LEASED)]
        await execute(database, _OTHER_EVENTS)
        await execute(database, "SELECT position_events(100000, interval '0')")
        await execute(database, "ANALYZE")
        yield filled


# The rows that 50,000 claims and completions leave behind, inserted in one go.
_FINISH_ALL = """
WITH taken AS (DELETE FROM ready RETURNING *), numbered AS (SELECT *, row_number() OVER () AS n FROM taken), failed AS (
    INSERT INTO attempt (tenant_id, job_id, epoch, attempt, enqueued_at, started_at, finished_at, worker_id, category,
                         message)
    SELECT tenant_id, job_id, n, 1, enqueued_at, clock(), clock(), 'w', 'internal', '' FROM numbered WHERE n % 10 = 0
)
INSERT INTO done (tenant_id, job_id, series_id, attempt, epoch, enqueued_at, started_at, finished_at, status, worker_id,
                  error_category, error_message, result)
SELECT tenant_id, job_id, series_id, 1, n, enqueued_at, clock(), clock(),
       CASE n % 10 WHEN 0 THEN 'failed' WHEN 1 THEN 'cancelled' ELSE 'completed' END, 'w',
       CASE n % 10 WHEN 0 THEN 'internal' END, '', CASE WHEN n % 10 > 1 THEN '1'::json END
FROM numbered
"""

_OTHER_EVENTS = """
INSERT INTO event (tenant_id, at, kind, job_ids)
SELECT 1, now() - make_interval(secs => n / 10.0), 'job.created', ARRAY[gen_random_uuid()]
FROM generate_series(1, 20000) n
"""

_MUCH_OUTPUT = """
INSERT INTO event (tenant_id, at, kind, job_id, first, weight, data)
SELECT $1, now(), 'job.output', $2, n, 3, '[1]' FROM generate_series(1, 5000) n
"""
_EXPIRIES = """
INSERT INTO expiry (tenant_id, job_id, expires_at)
SELECT tenant_id, job_id, clock() + CASE WHEN n % 100 = 0 THEN interval '-1 hour' ELSE interval '1 day' END
FROM (SELECT tenant_id, job_id, row_number() OVER () AS n
      FROM (SELECT tenant_id, job_id FROM ready UNION ALL SELECT tenant_id, job_id FROM later) w) numbered
"""

_MANY_QUEUES = """
INSERT INTO queue_seen (tenant_id, task_type, model_profile, seen_at)
SELECT CASE WHEN n % 100 = 0 THEN $1 ELSE 1 END, 'echo', 'profile ' || n, clock() FROM generate_series(1, 5000) n
"""
PAGE = {"limit": LIMIT, "max_bytes": 1_000_000}


async def test_a_claim_reads_about_as_many_ready_rows_as_it_takes(filled: Filled) -> None:
    plan = await _explain(filled, "claim", **_claim(filled))
    _assert_bounded(plan, rows=4 * LIMIT)
    assert sum(_read(node) for node in plan if node["Node Type"] == "LockRows") <= LIMIT


async def test_a_claim_by_names_is_as_cheap_as_one_for_any_work(filled: Filled) -> None:
    names = {"task_types": ["echo", "other"], "model_profiles": ["small"]}
    plan = await _explain(filled, "claim", **_claim(filled) | names)
    _assert_bounded(plan, rows=4 * LIMIT)


async def test_a_claim_for_all_tenants_is_as_cheap_as_one_for_one(filled: Filled) -> None:
    plan = await _explain(filled, "claim", **_claim(filled) | {"only_tenant": None})
    _assert_bounded(plan, rows=4 * LIMIT)
    assert sum(_read(node) for node in plan if node["Node Type"] == "LockRows") <= LIMIT


async def test_creating_jobs_reads_no_large_table(filled: Filled) -> None:
    ids = [uuid7() for _ in range(LIMIT)]
    plan = await _explain(
        filled,
        "create",
        tenant_id=filled.tenant,
        ids=ids,
        series_ids=[1] * LIMIT,
        lane_ids=[1] * LIMIT,
        submitter_ids=[1] * LIMIT,
        owner_refs=[""] * LIMIT,
        user_ids=[""] * LIMIT,
        inputs=["{}"] * LIMIT,
        input_sizes=[2] * LIMIT,
        max_attempts=[3] * LIMIT,
        timeouts=[1.0] * LIMIT,
        run_ats=[None] * LIMIT,
        keys=["k"] * LIMIT,
        tags=["t"] * LIMIT,
        concurrency_keys=[None] * LIMIT,
    )
    _assert_bounded(plan, rows=0)


async def test_completing_jobs_reads_their_leases_only(filled: Filled) -> None:
    given = {"results": ["1"] * LIMIT, "sizes": [1] * LIMIT, "usages": [USAGE] * LIMIT}
    plan = await _explain(filled, "complete", **_leases(filled), **given)
    _assert_bounded(plan, rows=0)
    assert _rows_of(plan, "lease") <= 3 * LIMIT


async def test_heartbeats_read_their_leases_only(filled: Filled) -> None:
    reports = {
        "lease_seconds": [None] * LIMIT,
        "progress": ["{}"] * LIMIT,
        "chunks": ["[1, 2]"] * LIMIT,
        "chunks_from": [0] * LIMIT,
        "chunks_to": [2] * LIMIT,
        "lines": ["[{}]"] * LIMIT,
        "lines_from": [0] * LIMIT,
        "lines_to": [1] * LIMIT,
    }
    plan = await _explain(filled, "heartbeat", **_leases(filled), **reports)
    _assert_bounded(plan, rows=0)
    assert _rows_of(plan, "lease") <= 3 * LIMIT


async def test_ending_attempts_reads_their_leases_only(filled: Filled) -> None:
    _assert_bounded(await _explain(filled, "lock_leases", **_leases(filled)), rows=0)
    verdicts = {
        "tenant_id": filled.tenant,
        "job_ids": [job_id for job_id, _ in filled.leased[:LIMIT]],
        "statuses": ["pending", "failed"] * (LIMIT // 2),
        "delays": [0.0, 1.0] * (LIMIT // 2),
        "failures": [1] * LIMIT,
        "losses": [0] * LIMIT,
        "categories": ["internal"] * LIMIT,
        "messages": [""] * LIMIT,
        "usages": [USAGE] * LIMIT,
    }
    _assert_bounded(await _explain(filled, "end_attempts", **verdicts), rows=0)


@pytest.mark.parametrize("state", ["done", "ready", "leased"])
@pytest.mark.parametrize("name", ["cancel", "retry", "get", "find_finished", "usage_of"])
async def test_statements_that_name_their_jobs_read_only_those(filled: Filled, name: str, state: str) -> None:
    plan = await _explain(filled, name, tenant_id=filled.tenant, job_ids=_some(filled, state))
    _assert_bounded(plan, rows=8 * LIMIT)


async def test_one_jobs_attempts_are_found_by_its_id(filled: Filled) -> None:
    plan = await _explain(filled, "attempts", tenant_id=filled.tenant, job_id=filled.done[5])
    _assert_bounded(plan, rows=2)


async def test_idempotency_keys_are_found_by_the_key(filled: Filled) -> None:
    keys = {"tenant_id": filled.tenant, "owner_services": ["tests"] * LIMIT, "keys": ["none"] * LIMIT}
    _assert_bounded(await _explain(filled, "find", **keys), rows=0)
    keys["job_ids"] = [uuid7() for _ in range(LIMIT)]
    _assert_bounded(await _explain(filled, "reserve", **keys), rows=0)


SCANS: dict[str, dict[str, Any]] = {
    "scan_jobs": {},
    "scan_series": {"series_ids": [1, 2, 3]},
    "scan_owner_ref": {"owner_ref": "ref2"},
    "scan_user": {"user_id": "user2"},
    "scan_concurrency_key": {"concurrency_key": "key2"},
    "scan_pending": {},
    "scan_running": {},
    "scan_unsuccessful": {"status": "failed"},
}


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("place", ["newest", "middle"])
async def test_a_lists_candidates_come_from_an_index_and_no_more_than_requested(
    filled: Filled, name: str, place: str
) -> None:
    high = MAX_ID if place == "newest" else filled.done[DONE // 2]
    bounds = {"tenant_id": filled.tenant, "low": MIN_ID, "high": high, "budget": LIMIT}
    plan = await _explain(filled, name, **bounds, **SCANS[name])
    _assert_bounded(plan, rows=4 * LIMIT)


@pytest.mark.parametrize("state", ["done", "ready", "leased"])
async def test_checking_candidates_reads_only_those(filled: Filled, state: str) -> None:
    parameters: dict[str, Any] = dict.fromkeys(_statement("matching").arguments_by_name())
    parameters |= {"tenant_id": filled.tenant, "job_ids": _some(filled, state), "owner_service": "tests"}
    _assert_bounded(await _explain(filled, "matching", **parameters), rows=8 * LIMIT)


async def test_promotion_reads_only_due_jobs(filled: Filled) -> None:
    _assert_bounded(await _explain(filled, "promote", limit=LIMIT), rows=1)  # the one that is due next


async def test_statistics_read_no_job(filled: Filled) -> None:
    _assert_bounded(await _explain(filled, "counts", tenant_id=filled.tenant), rows=0)
    plan = await _explain(filled, "oldest_pending", tenant_id=filled.tenant)
    _assert_bounded(plan, rows=20)


async def test_reading_events_after_a_position_starts_there(filled: Filled) -> None:
    async with filled.database.acquire() as connection:
        end = (await event_log.end_position(connection, 1)).number
    behind = {"known": end - 3, "behind": end - 3, "upto": 2**62}
    plan = await _explain(filled, "read_events", tenant_id=1, **behind, **PAGE)
    _assert_bounded(plan, rows=12)


async def test_finding_a_position_and_the_end_reads_single_rows(filled: Filled) -> None:
    _assert_bounded(await _explain(filled, "locate", tenant_id=1, position=10_000), rows=2)
    _assert_bounded(await _explain(filled, "end_position", tenant_id=1), rows=2)


@pytest.mark.parametrize("state", ["done", "ready", "leased"])
async def test_one_jobs_events_are_found_by_their_times(filled: Filled, state: str) -> None:
    job_id = _some(filled, state)[0]
    plan = await _explain(filled, "read_job_events", tenant_id=filled.tenant, job_id=job_id, row_id=0, **PAGE)
    _assert_bounded(plan, rows=30)


async def test_a_page_of_a_long_history_reads_no_more_than_the_page(filled: Filled) -> None:
    job_id, _ = filled.leased[-1]
    await execute(filled.database, _MUCH_OUTPUT, filled.tenant, job_id)
    await execute(filled.database, "SELECT position_events(10000, interval '0')")
    plan = await _explain(filled, "read_job_events", tenant_id=filled.tenant, job_id=job_id, row_id=0, **PAGE)
    _assert_bounded(plan, rows=40)


async def test_a_pass_that_numbers_events_reads_only_those_without_a_position(filled: Filled) -> None:
    """This holds even with missing ids below them and dead rows of earlier passes that cannot be vacuumed."""
    await execute(filled.database, "SELECT position_events(10000, interval '0')")
    for _ in range(3):
        await filled.caller.submit()
    async with filled.database.acquire() as connection:
        source = await connection.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'position_events'")
        (last,) = await connection.fetch("SELECT pass, reached FROM event_pass ORDER BY pass DESC LIMIT 1")
    parameters = {
        "last.missing": ("$1::int8multirange", "{[5,7),[9000,9002)}"),
        "last.reached": ("$2::bigint", last["reached"]),
        "last.pass": ("$3::bigint", last["pass"]),
        "at_most": ("$4::int", 5000),
        "settled": ("$5::bigint", 0),
        "this.drawn": ("$6::bigint", 0),
        "this.writers": ("$7::text[]", "{}"),
        "this.noted_at": ("$8::timestamptz", "2026-01-01"),
        "last.noted_at": ("$9::timestamptz", "2026-01-01"),
    }
    statement = source[source.index("WITH found") : source.index("IF NOT succeeded")]
    statement = statement.replace("INTO given, succeeded", "")
    for name, (parameter, _) in parameters.items():
        statement = statement.replace(name, parameter)
    plan = await _explain_text(filled, statement, [value for _, value in parameters.values()])
    _assert_bounded(plan, rows=20)
    newest = await _explain_text(filled, "SELECT * FROM event_pass ORDER BY pass DESC LIMIT 1", [])
    assert [node["Node Type"] for node in newest] == ["Limit", "Index Scan"]


async def test_expiring_jobs_reads_only_those_that_are_due(filled: Filled) -> None:
    await execute(filled.database, _EXPIRIES)
    await execute(filled.database, "ANALYZE expiry")
    plan = await _explain(filled, "expire", limit=LIMIT)
    _assert_bounded(plan, rows=8 * LIMIT)
    assert _rows_of(plan, "ready") + _rows_of(plan, "later") > 0, "the statement had nothing to do"
    plan = await _explain(filled, "next_expiry")
    assert [(node["Node Type"], _read(node)) for node in plan] == [("Limit", 1), ("Index Only Scan", 1)]


async def test_the_queues_that_workers_serve_are_read_for_one_tenant_only(filled: Filled) -> None:
    await execute(filled.database, _MANY_QUEUES, filled.tenant)
    plan = await _explain(filled, "served", tenant_id=filled.tenant, limit=LIMIT)
    (scan,) = [node for node in plan if node.get("Relation Name") == "queue_seen"]
    assert scan["Node Type"] == "Index Scan"
    assert "tenant_id" in scan["Index Cond"]
    assert LIMIT <= _read(scan) <= 60


async def test_raising_hints_reads_one_row_per_lane(filled: Filled) -> None:
    _assert_bounded(await _explain(filled, "raise_hints"), rows=20)


class _Known(Statement):
    """One of our statements, with the names of its parameters."""

    __slots__ = ()

    def arguments_by_name(self) -> list[str]:
        return self._order


async def test_why_a_job_waits_is_found_without_reading_all_jobs(filled: Filled) -> None:
    plan = await _explain(filled, "place", tenant_id=filled.tenant, job_id=filled.ready[-1], at_most=100)
    _assert_bounded(plan, rows=300)
    queue = {"tenant_id": filled.tenant, "task_type": "echo", "model_profile": "small"}
    _assert_bounded(await _explain(filled, "running", **queue, limit=5), rows=3 * LEASED)
    _assert_bounded(await _explain(filled, "durations", **queue, limit=50), rows=4000)


_READ = """
SELECT sum(seq_tup_read + idx_tup_fetch)::int FROM pg_stat_xact_user_tables WHERE relname IN ('ready', 'later', 'lease')
"""


@pytest.mark.parametrize("key", ["busy", "few"])
async def test_an_admission_reads_no_more_blocked_jobs_than_it_admits(filled: Filled, key: str) -> None:
    await limit(filled.caller, 2, task_type="keyed")
    for name, count in (("busy", 3000), ("few", 5)):
        await filled.caller.submit_many(count, task_type="keyed", concurrency_key=name)
    await settled(filled.caller)
    async with filled.database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        freed = "DELETE FROM ready WHERE job_id = (SELECT job_id FROM ready WHERE concurrency_key = $1 LIMIT 1)"
        lane = await connection.fetchval(f"{freed} RETURNING lane_id", key)
        before = await connection.fetchval(_READ)
        (admitted,) = await keys.admit(connection, [(lane, key)], at_most=100)
        read = await connection.fetchval(_READ) - before
        await transaction.rollback()
    assert admitted.admitted == 1
    assert 1 <= read <= 30


async def test_the_keys_of_blocked_jobs_are_found_with_one_row_for_each(filled: Filled) -> None:
    plan = await _explain(filled, "blocked_keys", after_lane=0, after_key="", limit=LIMIT)
    _assert_bounded(plan, rows=20)


def _statement(name: str) -> _Known:
    statements = {**store._sql.statements, **reading._sql.statements, **event_log._sql.statements}
    more = (duties, history, queues, explanations, keys, names, idempotency)
    statement = {**statements, **{key: one for room in more for key, one in room._sql.statements.items()}}[name]
    return _Known(statement.name, statement.sql, statement._order)


def _claim(filled: Filled) -> dict[str, Any]:
    return {
        "only_tenant": filled.tenant,
        "tenant_names": None,
        "worker_id": "w",
        "task_types": [],
        "model_profiles": [],
        "limit": LIMIT,
        "lease_seconds": 60.0,
        "turn_tenants": [],
        "turn_quanta": [],
        "cursor_lanes": [],
        "cursor_seqs": [],
        "from_start": False,
    }


def _leases(filled: Filled) -> dict[str, Any]:
    leases = filled.leased[:LIMIT]
    return {
        "tenant_id": filled.tenant,
        "job_ids": [job_id for job_id, _ in leases],
        "epochs": [epoch for _, epoch in leases],
    }


def _some(filled: Filled, state: str) -> list[UUID]:
    if state == "leased":
        return [job_id for job_id, _ in filled.leased[:LIMIT]]
    ids = filled.done if state == "done" else filled.ready[LEASED:]
    return ids[:: len(ids) // LIMIT][:LIMIT]


async def _explain(filled: Filled, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the nodes of the generic plan, as executed; roll back what the statement changed."""
    statement = _statement(name)
    return await _explain_text(filled, statement.sql, statement.arguments(parameters))


async def _explain_text(filled: Filled, sql: str, arguments: Sequence[Any]) -> list[dict[str, Any]]:
    values = ", ".join(_literal(value) for value in arguments)
    async with filled.database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"PREPARE guarded AS {sql.rstrip().rstrip(';')}")
            execute = f"EXECUTE guarded({values})" if values else "EXECUTE guarded"
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {execute}")
        finally:
            await transaction.rollback()
            await _forget(connection)
    return list(_nodes(json.loads(bytes(plan))[0]["Plan"]))


async def _forget(connection: asyncpg.Connection) -> None:
    if await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name = 'guarded'"):
        await connection.execute("DEALLOCATE guarded")


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool() | int() | float():
            return str(value)
        case list() | tuple():
            return "'{" + ",".join("NULL" if item is None else f'"{_escaped(item)}"' for item in value) + "}'"
        case _:
            return "'" + str(value).replace("'", "''") + "'"


def _escaped(item: Any) -> str:
    return str(item).replace("\\", "\\\\").replace('"', '\\"').replace("'", "''")


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _read(node: dict[str, Any]) -> float:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def _is_big(relation: str) -> bool:
    table, _, part = relation.partition("_")
    return table in BIG and part != "seq"


def _rows_of(plan: Sequence[dict[str, Any]], table: str) -> float:
    return sum(
        _read(node)
        for node in plan
        if node.get("Relation Name", "").partition("_")[0] == table and node["Node Type"] != "ModifyTable"
    )


def _assert_bounded(plan: Sequence[dict[str, Any]], *, rows: int) -> None:
    """Assert that big tables are read only by bounded index scans or row addresses, and at most ``rows`` rows."""
    total = 0.0
    for node in plan:
        relation = node.get("Relation Name", "")
        if not _is_big(relation) or node["Node Type"] == "ModifyTable":
            continue
        assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Tid Scan"}, (relation, node["Node Type"])
        bound = "Index Cond" in node or "TID Cond" in node
        assert bound, f"{relation} is scanned along {node.get('Index Name')} without a bound"
        total += _read(node)
    assert total <= rows, [
        (node["Relation Name"], node.get("Index Name"), _read(node)) for node in plan if "Relation Name" in node
    ]
