"""Retry runs, and rerun them from a step: the typed functions of ``forks.sql``."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.flows.kernel.records import StepKind
from penstock.jobs.sql.rows import Connection, LimitedKey
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "forks.sql")


async def ended_run(connection: Connection, tenant: TenantId, run_id: UUID) -> asyncpg.Record | None:
    """Lock and return the final state of a run, or None if it has not ended."""
    return await _sql.ended_run.row(connection, tenant_id=tenant, run_id=run_id)


async def failed_turn(connection: Connection, tenant: TenantId, run_id: UUID) -> int | None:
    """Return the turn from which a failed run is executed again; None if it has no turns.

    It is the one that consumed the failure of a job. A failed value or map is issued again, by the turn that did so.
    If no step failed, the code itself has: then it is the last turn.
    """
    failed = await _sql.failed_step.row(connection, tenant_id=tenant, run_id=run_id)
    turn: int | None = None
    if failed is not None and failed["kind"] == StepKind.CALL:
        turn = await _sql.turn_that_took.value(connection, tenant_id=tenant, run_id=run_id, mail_id=failed["id"])
    elif failed is not None:
        turn = await turn_of(connection, tenant, run_id, failed["no"])
    if turn is None:
        turn = await _sql.last_turn.value(connection, tenant_id=tenant, run_id=run_id)
    return turn


async def turn_of(connection: Connection, tenant: TenantId, run_id: UUID, no: int) -> int | None:
    """Return the turn that issued a step; None if there is no such step."""
    turn: int | None = await _sql.turn_that_issued.value(connection, tenant_id=tenant, run_id=run_id, no=no)
    return turn


async def reopen(connection: Connection, tenant: TenantId, run_id: UUID, *, turn: int, ended_at: datetime) -> None:
    """Continue a run that has ended from a turn, in the current transaction."""
    await _sql.reopen.run(connection, tenant_id=tenant, run_id=run_id)
    await _sql.fork.run(connection, tenant_id=tenant, source=run_id, target=run_id, cut=turn, ended_at=ended_at)


async def copy(
    connection: Connection,
    tenant: TenantId,
    run_id: UUID,
    new_id: UUID,
    *,
    turn: int,
    input: Raw | None,  # noqa: A002 - the contract's word
    submitter_id: int,
    ended_at: datetime,
) -> None:
    """Make a new run with the history of another up to a turn, in the current transaction."""
    await _sql.copy_run.run(
        connection, tenant_id=tenant, run_id=run_id, new_id=new_id, input=input, submitter_id=submitter_id
    )
    await _sql.fork.run(connection, tenant_id=tenant, source=run_id, target=new_id, cut=turn, ended_at=ended_at)


async def blocked(connection: Connection, tenant: TenantId, run_id: UUID) -> list[LimitedKey]:
    """Return the concurrency keys for which a run or its jobs are blocked."""
    rows = await _sql.blocked.rows(connection, tenant_id=tenant, run_id=run_id)
    return [(row["lane_id"], row["concurrency_key"]) for row in rows]
