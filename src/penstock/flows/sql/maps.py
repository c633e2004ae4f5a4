"""Maps: the typed functions of ``maps.sql``. Each takes the connection and the tenant first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.flows.sql.store import Child
from penstock.jobs.sql.rows import Connection
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "maps.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class MapState:
    """The progress of a map."""

    items: int
    running: int  # items in blocks that have begun, whose jobs have not ended
    failed: int  # items whose jobs have ended without a result
    left: int  # blocks that have not begun
    largest: int  # number of items in the largest block


@dataclass(frozen=True, slots=True, kw_only=True)
class NextBlock:
    """A block that has not begun."""

    first: int
    items: int
    inputs: Raw  # a list


async def state(connection: Connection, tenant: TenantId, run_id: UUID) -> MapState:
    """Return the progress of a map."""
    (row,) = await _sql.state.rows(connection, tenant_id=tenant, run_id=run_id)
    return MapState(
        items=row["items"],
        running=row["running"],
        failed=row["failed"],
        left=row["left"],
        largest=row["largest"] or 1,
    )


async def next_blocks(connection: Connection, tenant: TenantId, run_id: UUID, *, limit: int) -> list[NextBlock]:
    """Return the next blocks that have not begun."""
    rows = await _sql.next_blocks.rows(connection, tenant_id=tenant, run_id=run_id, limit=limit)
    return [NextBlock(first=row["first"], items=row["items"], inputs=row["inputs"]) for row in rows]


async def pump(
    connection: Connection,
    tenant: TenantId,
    run_id: UUID,
    epoch: int,
    *,
    blocks: Sequence[NextBlock],
    items: Sequence[tuple[int, UUID, Raw]],
    job: Child,
) -> bool:
    """Begin blocks with a job like ``job`` for each item (index, id, input); return False if the lease was lost."""
    rows = await _sql.pump.rows(
        connection,
        tenant_id=tenant,
        run_id=run_id,
        epoch=epoch,
        firsts=[block.first for block in blocks],
        items=[index for index, _, _ in items],
        ids=[job_id for _, job_id, _ in items],
        series_id=job.series_id,
        lane_id=job.lane_id,
        inputs=[value for _, _, value in items],
        sizes=[memoryview(value).nbytes for _, _, value in items],
        attempts=job.max_attempts,
        timeout=job.timeout_seconds,
        key=job.concurrency_key,
        are_runs=job.gate != "",
    )
    return bool(rows)


async def report(connection: Connection, tenant: TenantId, run_id: UUID, epoch: int) -> None:
    """Store the counts of a map's items as an event of its progress, if the lease holds."""
    await _sql.report.run(connection, tenant_id=tenant, run_id=run_id, epoch=epoch)


async def outcomes(
    connection: Connection, tenant: TenantId, run_id: UUID, *, from_item: int, limit: int
) -> list[asyncpg.Record]:
    """Return the outcomes of items of a map, in order."""
    rows: list[asyncpg.Record] = await _sql.outcomes.rows(
        connection, tenant_id=tenant, run_id=run_id, from_item=from_item, limit=limit
    )
    return rows


async def first_failure(connection: Connection, tenant: TenantId, run_id: UUID, *, items: int) -> asyncpg.Record | None:
    """Return the first item of a map that has ended without a result."""
    return await _sql.first_failure.row(connection, tenant_id=tenant, run_id=run_id, limit=items)
