"""No statement forgets its tenant: read from the statements themselves, and seen from what a second tenant can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pglast
import pytest
from pglast import ast

from penstock.errors import CallerError, NotFound
from penstock.jobs import store
from penstock.jobs.job import JobFilter
from penstock.jobs.states import Status
from penstock.postgres import queries
from penstock.postgres.pool import Database
from tests.db.stage import Caller, own_tenant, snapshot, take, within

SQL = Path(store.__file__).with_name("queries.sql")
STATEMENTS = queries.load(store.__file__).statements
TENANT_TABLES = frozenset(
    {"job", "jobs", "ready", "later", "lease", "done", "attempt", "event", "idempotency", "series", "lane", "stat"}
    | {"stat_delta", "job_default", "done_default", "attempt_default", "event_default"}
)
EVERY = re.compile(r"^-- name: (\w+).*\n(?:--.*\n)*?-- tenant: every \(.+\)", re.MULTILINE)
FOR_EVERY = frozenset(EVERY.findall(SQL.read_text()))


def forgotten(sql: str, parameter: int) -> list[str]:
    """The tables that a statement touches without binding their tenant to that parameter."""
    (statement,) = pglast.parse_sql(sql)
    return [problem for node in _queries(statement.stmt) for problem in _forgotten_by(node, parameter)]


def _kind(node: Any) -> str:
    return type(node).__name__


def _queries(node: Any) -> Iterator[Any]:
    """Every query level inside a statement, itself included."""
    parts: tuple[str, ...] = getattr(node, "__slots__", ())
    if _kind(node) in {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"}:
        yield node
    if isinstance(node, ast.Node):
        for name in parts:
            yield from _queries(getattr(node, name))
    elif isinstance(node, tuple):
        for item in node:
            yield from _queries(item)


def _forgotten_by(query: Any, parameter: int) -> Iterator[str]:
    if _kind(query) == "InsertStmt":
        columns = {column.name for column in query.cols or ()}
        if query.relation.relname in TENANT_TABLES and "tenant_id" not in columns:
            yield f"INSERT INTO {query.relation.relname}"
        return
    tables: list[Any] = []
    conditions = list(_conjuncts(getattr(query, "whereClause", None)))
    for item in (*(getattr(query, "fromClause", None) or ()), *(getattr(query, "usingClause", None) or ())):
        _collect(item, tables, conditions)
    if _kind(query) in {"UpdateStmt", "DeleteStmt"}:
        tables.append(query.relation)
    mine = [table for table in tables if table.relname in TENANT_TABLES]
    bound = {alias for condition in conditions if (alias := _bound(condition, parameter)) is not None}
    for table in mine:
        alias = table.alias.aliasname if table.alias else table.relname
        if alias not in bound and not (len(mine) == 1 and "" in bound):
            yield f"{type(query).__name__} on {table.relname}"


def _collect(item: Any, tables: list[Any], conditions: list[Any]) -> None:
    if _kind(item) == "RangeVar":
        tables.append(item)
    elif _kind(item) == "JoinExpr":
        _collect(item.larg, tables, conditions)
        _collect(item.rarg, tables, conditions)
        conditions.extend(_conjuncts(item.quals))


def _conjuncts(condition: Any) -> Iterator[Any]:
    if _kind(condition) == "BoolExpr" and condition.boolop == pglast.enums.BoolExprType.AND_EXPR:
        for part in condition.args:
            yield from _conjuncts(part)
    elif condition is not None:
        yield condition


def _bound(condition: Any, parameter: int) -> str | None:
    """The alias whose tenant_id the condition sets equal to the parameter; "" when the column stands alone."""
    if _kind(condition) != "A_Expr" or condition.name[-1].sval != "=":
        return None
    sides = (condition.lexpr, condition.rexpr)
    columns = [side for side in sides if _kind(side) == "ColumnRef"]
    numbers = [side.number for side in sides if _kind(side) == "ParamRef"]
    if numbers != [parameter] or len(columns) != 1:
        return None
    names = [field.sval for field in columns[0].fields]
    return (names[0] if len(names) > 1 else "") if names[-1] == "tenant_id" else None


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - FOR_EVERY))
def test_a_statement_binds_its_tenant_wherever_it_touches_one(name: str) -> None:
    statement = STATEMENTS[name]
    assert "tenant_id" in statement._order, "it takes a tenant, or says that it serves every one"
    assert forgotten(statement.sql, statement._order.index("tenant_id") + 1) == []


@pytest.mark.parametrize("name", sorted(FOR_EVERY))
def test_only_duties_of_the_house_serve_every_tenant(name: str) -> None:
    assert name in {
        "begin_rescue", "event_horizon", "lock_expired", "lock_leases_of", "promote", "raise_hints", "ready_position",
        "roll_up",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT * FROM job WHERE id = $2", "SelectStmt on job"),
        ("SELECT * FROM job j JOIN done d ON d.job_id = j.id WHERE j.tenant_id = $1", "SelectStmt on done"),
        ("DELETE FROM ready WHERE lane_id = $2 OR tenant_id = $1", "DeleteStmt on ready"),
        ("UPDATE lease l SET progress = NULL WHERE l.tenant_id = $2", "UpdateStmt on lease"),
        ("INSERT INTO done (job_id) VALUES ($1)", "INSERT INTO done"),
        ("WITH a AS (SELECT 1 FROM later) SELECT 1 FROM job WHERE tenant_id = $1", "SelectStmt on later"),
    ],
)
def test_the_check_finds_a_forgetful_statement(sql: str, what: str) -> None:
    assert forgotten(sql, 1) == [what]


async def test_a_second_tenant_sees_and_changes_nothing(alone: Caller, fresh: Database) -> None:
    other = Caller(alone.service, await own_tenant(fresh))
    await alone.submit(idempotency_key="k", priority=3)
    running = await alone.claim_one()
    pending = await alone.submit()
    before = await snapshot(fresh)
    for job_id in (running.id, pending.id):
        for call in (other.get, other.cancel, other.retry):
            with pytest.raises(NotFound):
                await call(job_id)
    assert isinstance(await other.beat(running), CallerError)
    for report in (other.complete(running), other.fail(running)):
        with pytest.raises(NotFound):
            await report
    assert await other.claim(10) == []
    assert (await other.page()).jobs == []
    assert await other.service.cancel_where(other.tenant, JobFilter(owner_service="tests"), dry_run=False) == 0
    assert await other.service.retry_where(other.tenant, JobFilter(owner_service="tests"), dry_run=False) == 0
    assert (await other.service.stats(other.tenant)).queues == []
    with pytest.raises(NotFound):
        await within(anext(other.service.events(other.tenant, job_id=running.id)))
    assert await snapshot(fresh) == before


async def test_tenants_may_use_the_same_names_and_keys(alone: Caller, fresh: Database) -> None:
    other = Caller(alone.service, await own_tenant(fresh))
    mine = await alone.submit(idempotency_key="k")
    theirs = await other.submit(idempotency_key="k")
    assert mine.id != theirs.id
    assert [job.id for job in await other.claim(10)] == [theirs.id]
    assert await alone.status(mine.id) is Status.PENDING
    (event,) = await take(other.service.events(other.tenant, job_id=theirs.id), 1)
    assert event.job_id == theirs.id
