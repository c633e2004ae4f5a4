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
    children: Sequence[tuple[int, Child]],
) -> bool:
    """Begin blocks with child jobs for their items, as pairs of item and job; return False if the lease was lost."""
    one = children[0][1]
    rows = await _sql.pump.rows(
        connection,
        tenant_id=tenant,
        run_id=run_id,
        epoch=epoch,
        firsts=[block.first for block in blocks],
        items=[item for item, _ in children],
        ids=[child.id for _, child in children],
        series_id=one.series_id,
        lane_id=one.lane_id,
        inputs=[child.input for _, child in children],
        sizes=[memoryview(child.input).nbytes for _, child in children],
        attempts=one.max_attempts,
        timeout=one.timeout_seconds,
        key=one.concurrency_key,
        are_runs=one.gate != "",
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
