"""Runs for display and for operators: the typed functions of ``runs.sql``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from penstock.jobs.sql.rows import Connection, Mailed
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_PARTS: Final = 200  # jobs of each run that one statement returns
_RUNS: Final = 100  # whose jobs one statement returns

_sql = queries.load(__file__, "runs.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsCursor:
    """How far the jobs of a run were read."""

    run_id: UUID
    no: int
    id: UUID

    @classmethod
    def of(cls, run_id: UUID) -> PartsCursor:
        """Return the cursor before the first job of a run."""
        return cls(run_id=run_id, no=-1, id=UUID(int=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A job that a run has issued."""

    id: UUID
    is_run: bool
    is_old: bool  # no event of it follows the time at which the reader begins


async def open_runs(
    connection: Connection,
    tenant: TenantId,
    *,
    profiles: Sequence[str] | None,
    held: bool,
    below: UUID,
    limit: int,
) -> list[UUID]:
    """Return runs that have not ended, newest first: of these queues (None: of any), or only those that are held."""
    rows = await _sql.open_runs.rows(
        connection,
        tenant_id=tenant,
        profiles=None if profiles is None else list(profiles),
        held=held,
        below=below,
        limit=limit,
    )
    return [row["run_id"] for row in rows]


async def unfinished_by_queue(connection: Connection, tenant: TenantId) -> dict[str, int]:
    """Return how many runs of each flow (``name@version``) have not ended, from the counters."""
    rows = await _sql.unfinished_by_queue.rows(connection, tenant_id=tenant)
    return {row["model_profile"]: row["runs"] for row in rows}


async def unfinished_of_all(connection: Connection) -> dict[str, int]:
    """Return how many runs of each flow have not ended, by the model profile of their queue, of all tenants."""
    return {row["model_profile"]: row["runs"] for row in await _sql.unfinished_of_all.rows(connection)}


async def held_of_all(connection: Connection) -> list[asyncpg.Record]:
    """Return how many runs of each flow are held, and why, of all tenants."""
    rows: list[asyncpg.Record] = await _sql.held_of_all.rows(connection)
    return rows


async def details(connection: Connection, tenant: TenantId, run_id: UUID) -> asyncpg.Record | None:
    """Return what is stored about a run beside its job, or None if it has ended."""
    return await _sql.details.row(connection, tenant_id=tenant, run_id=run_id)


async def tree_steps(
    connection: Connection, tenant: TenantId, run_id: UUID, *, from_no: int, limit: int
) -> list[asyncpg.Record]:
    """Return steps of a run in order."""
    rows: list[asyncpg.Record] = await _sql.tree_steps.rows(
        connection, tenant_id=tenant, run_id=run_id, from_no=from_no, limit=limit
    )
    return rows


async def tree_ends(
    connection: Connection, tenant: TenantId, run_id: UUID, *, low: int, high: int
) -> dict[int, asyncpg.Record]:
    """Return the ends of the steps of a run from ``low`` to ``high``."""
    rows = await _sql.tree_ends.rows(connection, tenant_id=tenant, run_id=run_id, low=low, high=high)
    return {row["no"]: row for row in rows}


async def received_signals(
    connection: Connection, tenant: TenantId, run_id: UUID, *, low: int, high: int
) -> frozenset[int]:
    """Return the steps of a run from ``low`` to ``high`` that waited for a signal which has arrived."""
    rows = await _sql.received_signals.rows(connection, tenant_id=tenant, run_id=run_id, low=low, high=high)
    return frozenset(row["no"] for row in rows)


async def tree_jobs(connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
    """Return the states of child jobs."""
    rows = await _sql.tree_jobs.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {row["id"]: row for row in rows}


async def map_counts(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
    """Return how many items of maps that have not ended wait, run, and have ended."""
    rows = await _sql.map_counts.rows(connection, tenant_id=tenant, run_ids=list(run_ids))
    return {row["run_id"]: row for row in rows}


async def end_open(connection: Connection, tenant: TenantId, run_id: UUID) -> Mailed | None:
    """End a run at once, without its code, in the current transaction.

    Returns the parent that got mail, or None if nothing was changed because the run's state changed in the meantime.
    """
    await _sql.lock_home.run(connection, tenant_id=tenant, run_id=run_id)
    rows = await _sql.end_open.rows(connection, tenant_id=tenant, run_id=run_id)
    return Mailed.of(rows) if rows else None


async def move_open(
    connection: Connection, tenant: TenantId, run_id: UUID, *, series: int, lane: int
) -> asyncpg.Record | None:
    """Move a run to the queue of another version, in the current transaction.

    Returns whether it is ready, or None if nothing was changed because it has ended or is being executed.
    """
    await _sql.lock_home.run(connection, tenant_id=tenant, run_id=run_id)
    return await _sql.move_open.row(connection, tenant_id=tenant, run_id=run_id, series_id=series, lane_id=lane)


async def history_bytes(connection: Connection, tenant: TenantId, run_id: UUID) -> int:
    """Return about how many bytes the history of a run has."""
    return int(await _sql.history_bytes.value(connection, tenant_id=tenant, run_id=run_id))


async def tree_parts(
    connection: Connection, tenant: TenantId, cursors: Sequence[PartsCursor], *, known_at: datetime | None
) -> tuple[list[Part], list[PartsCursor]]:
    """Return jobs that runs have issued, without items of maps, and the cursors at which the rest begins."""
    now, later = cursors[:_RUNS], list(cursors[_RUNS:])
    rows = await _sql.tree_parts.rows(
        connection,
        tenant_id=tenant,
        run_ids=[cursor.run_id for cursor in now],
        nos=[cursor.no for cursor in now],
        ids=[cursor.id for cursor in now],
        known_at=known_at,
        limit=_PARTS,
    )
    counts = Counter(row["run_id"] for row in rows)
    last = {row["run_id"]: row for row in rows}
    rest = [
        PartsCursor(run_id=run_id, no=last[run_id]["step_no"], id=last[run_id]["id"])
        for run_id, count in counts.items()
        if count == _PARTS
    ]
    return [Part(id=row["id"], is_run=row["is_run"], is_old=row["is_old"]) for row in rows], later + rest
