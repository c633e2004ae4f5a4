"""No statement can forget its tenant: checked in the statements, and tried with another tenant's ids."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pglast
import pytest
from pglast import ast
from pglast.enums import A_Expr_Kind, BoolExprType

from penstock.access import store as access_store
from penstock.apps import catalogue as app_catalogue
from penstock.apps import marketplace as app_marketplace
from penstock.apps import records as app_records
from penstock.apps import statistics as app_statistics
from penstock.apps.serving import schemas as app_schemas
from penstock.blobs import store as blob_store
from penstock.callbacks import cursors as callback_cursors
from penstock.callbacks import deliveries as callback_deliveries
from penstock.callbacks import store as callback_store
from penstock.callbacks import upkeep as callback_upkeep
from penstock.collections import store as collection_store
from penstock.errors import NotFound, StaleEpoch
from penstock.events import store as event_log
from penstock.failures import Category
from penstock.flows.sql import catalogue as flow_catalogue
from penstock.flows.sql import duties as flow_duties
from penstock.flows.sql import forks as flow_forks
from penstock.flows.sql import maps as flow_maps
from penstock.flows.sql import runs as flow_runs
from penstock.flows.sql import store as flow_store
from penstock.jobs.counts import Counts
from penstock.jobs.filters import JobFilter
from penstock.jobs.sql import controls, duties, history, idempotency, keys, names, queues, reading, store, why
from penstock.models import store as model_store
from penstock.postgres.pool import Database
from penstock.providers import store as provider_store
from penstock.quotas import store as quota_store
from tests.support.databases import own_tenant, query, snapshot
from tests.support.jobs import JobCaller, submission, take
from tests.support.waiting import within

_BLOCK = re.compile(r"^-- name: (\w+).*?\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
ROOMS = {
    "apps": (app_catalogue, app_marketplace, app_records, app_schemas, app_statistics),
    "jobs": (store, reading, history, duties, queues, controls, keys, names, idempotency, why),
    "flows": (flow_store, flow_catalogue, flow_duties, flow_forks, flow_maps, flow_runs),
    "events": (event_log,),
    "models": (model_store,),
    "blobs": (blob_store,),
    "providers": (provider_store,),
    "access": (access_store,),
    "quotas": (quota_store,),
    "collections": (collection_store,),
    "callbacks": (callback_store, callback_cursors, callback_deliveries, callback_upkeep),
}
SOURCES = Path(store.__file__).parents[2]
STATEMENTS = {
    f"{room}.{name}": found
    for room, modules in ROOMS.items()
    for one in modules
    for name, found in one._sql.statements.items()
}
FILES = {
    (room, file)
    for room in ROOMS
    for file in (SOURCES / room).rglob("*.sql")
    if file.name != "retention.sql"  # whole days of every tenant
}
BLOCKS = {f"{room}.{name}": text for room, file in FILES for name, text in _BLOCK.findall(file.read_text())}
EVERY = re.compile(r"^-- tenant: every \((.+)\)$", re.MULTILINE)


# Reading the statements


@dataclass
class Reader:
    """Find the tables of a statement that are not tied to the tenant which the caller names."""

    tenant_tables: frozenset[str]
    tenant: int  # number of the parameter
    forgotten: list[str] = field(default_factory=list)

    def read(self, node: object, names: frozenset[str] = frozenset()) -> None:
        """Check a statement and all within it; ``names`` are the common table expressions in scope."""
        match node:
            case tuple():
                for part in node:
                    self.read(part, names)
            case ast.SelectStmt() | ast.UpdateStmt() | ast.DeleteStmt() | ast.InsertStmt():
                names = self._common_tables(node, names)
                if isinstance(node, ast.InsertStmt):
                    self._check_insert(node)
                else:
                    self._check_tables(node, names)
                for part in _parts(node, without=("withClause", "relation")):
                    self.read(part, names)
            case ast.Node():
                for part in _parts(node):
                    self.read(part, names)

    def _common_tables(self, node: Any, names: frozenset[str]) -> frozenset[str]:
        for expression in node.withClause.ctes if node.withClause else ():
            self.read(expression.ctequery, names)
            names |= {expression.ctename}
        return names

    def _check_insert(self, node: Any) -> None:
        table = node.relation.relname
        if table not in self.tenant_tables:
            return
        columns = [column.name for column in node.cols or ()]
        targets = node.selectStmt.targetList if isinstance(node.selectStmt, ast.SelectStmt) else None
        if "tenant_id" not in columns or targets is None:
            self.forgotten.append(f"INSERT INTO {table}")
            return
        if not self._is_tenant(targets[columns.index("tenant_id")].val):
            self.forgotten.append(f"INSERT INTO {table}: tenant_id is not the caller's")

    def _check_tables(self, node: Any, names: frozenset[str]) -> None:
        tables = list(_tables(node))
        conditions = list(_conjuncts(node.whereClause))
        for join in _joins(node):
            conditions += _conjuncts(join.quals)
        tied = {alias for condition in conditions if (alias := self._ties(condition)) is not None}
        for table in tables:
            if table.relname in names or table.relname not in self.tenant_tables:
                continue
            alias = table.alias.aliasname if table.alias else table.relname
            if alias not in tied and not ("" in tied and len(tables) == 1):
                self.forgotten.append(f"{type(node).__name__} of {table.relname} {alias}")

    def _ties(self, condition: object) -> str | None:
        """Return the alias whose tenant_id this condition sets equal to the caller's tenant; "" without an alias."""
        if not isinstance(condition, ast.A_Expr) or condition.kind != A_Expr_Kind.AEXPR_OP:
            return None
        if [name.sval for name in condition.name or ()] != ["="]:
            return None
        for column, value in ((condition.lexpr, condition.rexpr), (condition.rexpr, condition.lexpr)):
            if isinstance(column, ast.ColumnRef) and self._is_tenant(value):
                path = [part.sval for part in column.fields or () if isinstance(part, ast.String)]
                if path[-1] == "tenant_id":
                    return path[0] if len(path) > 1 else ""
        return None

    def _is_tenant(self, value: object) -> bool:
        if isinstance(value, ast.TypeCast):
            value = value.arg
        return isinstance(value, ast.ParamRef) and value.number == self.tenant


def _parts(node: ast.Node, without: tuple[str, ...] = ()) -> Iterator[object]:
    for name in node:
        if name not in without:
            yield getattr(node, name)


def _sources(node: Any) -> Iterator[object]:
    """Return the sources of a statement's rows, with joins expanded and without the contents of subqueries."""
    todo: list[Any] = [*(getattr(node, "fromClause", None) or ()), *(getattr(node, "usingClause", None) or ())]
    if not isinstance(node, ast.SelectStmt):
        todo.append(node.relation)
    while todo:
        source = todo.pop()
        yield source
        if isinstance(source, ast.JoinExpr):
            todo += [source.larg, source.rarg]


def _tables(node: Any) -> Iterator[ast.RangeVar]:
    return (source for source in _sources(node) if isinstance(source, ast.RangeVar))


def _joins(node: Any) -> Iterator[ast.JoinExpr]:
    return (source for source in _sources(node) if isinstance(source, ast.JoinExpr))


def _conjuncts(condition: Any) -> Iterator[object]:
    if isinstance(condition, ast.BoolExpr) and condition.boolop == BoolExprType.AND_EXPR:
        for part in condition.args or ():
            yield from _conjuncts(part)
    elif condition is not None:
        yield condition


def forgotten(sql: str, tenant_tables: frozenset[str], *, tenant: int) -> list[str]:
    """Return the places of a statement that name a tenant's table without its tenant."""
    reader = Reader(tenant_tables, tenant)
    reader.read(pglast.parse_sql(sql))
    return reader.forgotten


@pytest.fixture
async def tenant_tables(database: Database) -> frozenset[str]:
    """The tables and views of the real schema that have a tenant."""
    rows = await query(
        database,
        "SELECT table_name::text FROM information_schema.columns WHERE table_schema = 'penstock'"
        " AND column_name = 'tenant_id'",
    )
    return frozenset(name for (name,) in rows)


def test_every_block_of_the_file_is_read() -> None:
    assert BLOCKS.keys() == STATEMENTS.keys()
    assert len(BLOCKS) > 30


@pytest.mark.parametrize("name", sorted(BLOCKS))
async def test_a_statement_ties_each_tenants_table_to_its_tenant_or_states_why_not(
    name: str, tenant_tables: frozenset[str]
) -> None:
    assert {"job", "jobs", "lease", "done", "series", "event", "model", "blob", "blob_part"} <= tenant_tables
    statement = STATEMENTS[name]
    reason = EVERY.search(BLOCKS[name])
    if "tenant_id" not in statement._order:
        assert reason, "a statement without a tenant must state why it serves all tenants"
        return
    assert not reason, "a statement that names a tenant serves that one alone"
    tenant = statement._order.index("tenant_id") + 1
    assert forgotten(statement.sql, tenant_tables, tenant=tenant) == []


TABLES = frozenset({"job", "lease", "ready"})
FORGETFUL = [
    "SELECT * FROM job WHERE id = $2",
    "SELECT * FROM job WHERE tenant_id = $2",
    "SELECT * FROM job WHERE tenant_id = $1 OR id = $2",
    "SELECT * FROM job WHERE tenant_id <> $1",
    "SELECT * FROM job j JOIN lease l ON l.job_id = j.id WHERE j.tenant_id = $1",
    "SELECT * FROM job j LEFT JOIN lease l ON l.tenant_id = j.tenant_id WHERE j.tenant_id = $1",
    "SELECT (SELECT count(*) FROM lease) FROM job WHERE tenant_id = $1",
    "SELECT * FROM job WHERE tenant_id = $1 AND EXISTS (SELECT FROM lease WHERE job_id = id)",
    "SELECT * FROM job WHERE tenant_id = $1 UNION ALL SELECT * FROM job",
    "WITH x AS (SELECT * FROM job) SELECT * FROM x",
    "WITH x AS (SELECT 1), y AS (DELETE FROM lease USING x RETURNING 1) SELECT * FROM y",
    "WITH job AS (SELECT * FROM lease) SELECT * FROM job",
    "SELECT * FROM unnest($2::int[]) u CROSS JOIN LATERAL (SELECT * FROM ready WHERE lane_id = u) r",
    "UPDATE lease SET progress = NULL WHERE job_id = $2",
    "UPDATE lease l SET progress = NULL FROM job j WHERE j.tenant_id = $1 AND l.job_id = j.id",
    "DELETE FROM ready WHERE job_id = $2",
    "INSERT INTO job (id) SELECT $2",
    "INSERT INTO job (tenant_id, id) SELECT tenant_id, id FROM x",
    "INSERT INTO job (tenant_id, id) VALUES (1, $2)",
    "INSERT INTO job (tenant_id, id) SELECT $1, job_id FROM lease",
]
MINDFUL = [
    "SELECT * FROM job WHERE tenant_id = $1 AND id = $2",
    "SELECT * FROM job j JOIN lease l ON l.tenant_id = $1 AND l.job_id = j.id WHERE $1 = j.tenant_id",
    "WITH job AS (SELECT * FROM lease WHERE tenant_id = $1) SELECT * FROM job",
    "INSERT INTO job (tenant_id, id) SELECT $1, id FROM unnest($2::uuid[]) AS x(id)",
    "DELETE FROM lease l USING x WHERE l.tenant_id = $1 AND l.job_id = x.id",
]


@pytest.mark.parametrize("sql", FORGETFUL)
def test_the_reader_notices_a_forgotten_tenant(sql: str) -> None:
    assert forgotten(sql, TABLES, tenant=1)


@pytest.mark.parametrize("sql", MINDFUL)
def test_the_reader_accepts_correct_statements(sql: str) -> None:
    assert forgotten(sql, TABLES, tenant=1) == []


async def test_no_row_can_be_written_without_a_tenant(database: Database, tenant_tables: frozenset[str]) -> None:
    rows = await query(
        database,
        "SELECT c.table_name::text FROM information_schema.columns c JOIN information_schema.tables t USING"
        " (table_schema, table_name) WHERE c.table_schema = 'penstock' AND column_name = 'tenant_id'"
        " AND t.table_type = 'BASE TABLE' AND (is_nullable = 'YES' OR column_default IS NOT NULL)",
    )
    assert rows == []
    assert len(tenant_tables) > 10


# Trying it


@pytest.fixture
async def stranger(caller: JobCaller, database: Database) -> JobCaller:
    """Another tenant of the same service."""
    return JobCaller(caller.service, await own_tenant(database))


async def test_another_tenants_jobs_are_not_found(caller: JobCaller, stranger: JobCaller) -> None:
    job = await caller.submit(owner_ref="secret", tags=["t"])
    running = await caller.submit_and_claim(task_type="other")
    for job_id in (job.id, running.id):
        with pytest.raises(NotFound):
            await stranger.get(job_id)
        with pytest.raises(NotFound):
            await within(stranger.service.of(stranger.tenant).wait(job_id, timedelta(seconds=5)))
        with pytest.raises(NotFound):
            await take(stranger.events(job_id), 1)
    filters: list[dict[str, Any]] = [
        {},
        {"owner_service": "tests"},
        {"owner_ref": "secret"},
        {"tags": ["t"]},
        {"status": ["running"]},
    ]
    for where in [*filters, {"status": ["pending"]}, {"worker_id": "worker"}]:
        assert (await stranger.page(**where)).jobs == [], where
    stats = await stranger.service.of(stranger.tenant).stats()
    assert (stats.totals, stats.queues, stats.oldest_pending_seconds) == (Counts(), [], None)
    assert await stranger.claim(100) == []


async def test_no_call_with_another_tenants_ids_changes_a_row(alone: JobCaller, fresh: Database) -> None:
    stranger = JobCaller(alone.service, await own_tenant(fresh))
    await alone.submit_many(2)
    await alone.submit(run_at=datetime.now(UTC) + timedelta(days=1))
    failed = await alone.submit_and_claim(max_attempts=1)
    await alone.fail(failed)
    running = await alone.claim_one()
    ids = [job.id for job in (await alone.page()).jobs]
    service, tenant = stranger.service, stranger.tenant
    before = await snapshot(fresh)
    for job_id in ids:
        for change in (stranger.cancel(job_id), stranger.retry(job_id)):
            with pytest.raises(NotFound):
                await change
    for report in (stranger.complete(running), stranger.fail(running, Category.BAD_INPUT)):
        with pytest.raises(NotFound):
            await report
    assert isinstance(await stranger.beat(running, progress=b"1"), NotFound)
    everything = JobFilter(created_after=datetime(2001, 1, 1, tzinfo=UTC))
    assert await service.of(tenant).cancel_where(everything, dry_run=False) == 0
    assert await service.of(tenant).retry_where(everything, dry_run=False) == 0
    assert await stranger.claim(100) == []
    assert await snapshot(fresh) == before


async def test_a_finished_jobs_epoch_means_nothing_to_another_tenant(caller: JobCaller, stranger: JobCaller) -> None:
    job = await caller.submit_and_claim()
    await caller.complete(job)
    with pytest.raises(NotFound):
        await stranger.complete(job)
    assert not isinstance(await stranger.beat(job), StaleEpoch), "not even its existence is revealed"


async def test_the_same_key_and_names_in_two_tenants_are_two_jobs(caller: JobCaller, stranger: JobCaller) -> None:
    wanted = submission(idempotency_key="k")
    first = await caller.service.of(caller.tenant).submit(wanted)
    second = await stranger.service.of(stranger.tenant).submit(wanted)
    assert second.created
    assert first.job.id != second.job.id
    assert [job.id for job in await stranger.claim(10)] == [second.job.id]
    assert [job.id for job in await caller.claim(10)] == [first.job.id]


async def test_a_tenants_event_stream_delivers_its_own_events_only(caller: JobCaller, stranger: JobCaller) -> None:
    mark = await stranger.submit()
    (start,) = await take(stranger.events(mark.id), 1)
    await asyncio.gather(*(caller.submit() for _ in range(5)))
    own = await stranger.submit()
    (event,) = await take(stranger.events(after=start.id), 1)
    assert event.subject == own.id


def test_reading_the_statements_prints_nothing() -> None:
    """The library that reads them warns of blocks that it takes for something else, before logs are set up."""
    imports = "; ".join(f"import penstock.{room}.store" for room in ("jobs.sql", "models", "blobs", "providers"))
    done = subprocess.run([sys.executable, "-c", imports], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
