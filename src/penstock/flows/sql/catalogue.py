"""The flows that runners have: the typed functions of ``catalogue.sql``. Flows belong to the operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import msgspec

from penstock.flows.kernel.records import FlowDescription
from penstock.flows.sql.duties import mailed_of
from penstock.jobs.sql.rows import Connection, Mailed
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "catalogue.sql")


async def publish(connection: Connection, flows: Sequence[FlowDescription], *, code: str) -> None:
    """Store the flows that a runner has, and record that it is alive."""
    if flows:
        await _sql.publish.run(
            connection,
            names=[flow.name for flow in flows],
            versions=[flow.version for flow in flows],
            descriptions=[flow.description for flow in flows],
            inputs=[msgspec.json.encode(flow.input) for flow in flows],
            outputs=[msgspec.json.encode(flow.output) for flow in flows],
            examples=[msgspec.json.encode(flow.examples) for flow in flows],
            priorities=[flow.priority for flow in flows],
            code=code,
        )


async def release_held(connection: Connection, profiles: Sequence[str], *, code: str) -> dict[TenantId, Mailed]:
    """Release the runs that were held with other code of their flow; return them by tenant."""
    return mailed_of(await _sql.release_held.rows(connection, profiles=list(profiles), code=code))


async def versions(connection: Connection, *, alive: timedelta) -> list[asyncpg.Record]:
    """Return the known flows, and whether a runner has reported each of them within ``alive``."""
    rows: list[asyncpg.Record] = await _sql.versions.rows(connection, alive_seconds=alive.total_seconds())
    return rows


async def version_of(
    connection: Connection, name: str, version: str | None, *, alive: timedelta
) -> asyncpg.Record | None:
    """Return a version of a flow, or the one published last; None if there is none.

    A version that a runner has reported within ``alive`` takes precedence.
    """
    return await _sql.version_of.row(connection, name=name, version=version, alive_seconds=alive.total_seconds())
