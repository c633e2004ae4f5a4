"""The table of workers' reports about providers. Every function takes the connection first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import asyncpg
import msgspec
from msgspec import Struct

from penstock.postgres import queries
from penstock.providers.reports import ProviderReport

_sql = queries.load(__file__)


class WorkerReport(Struct, frozen=True, kw_only=True):
    """The state of one provider in one worker."""

    worker_id: str
    provider: str
    age_seconds: float
    report: ProviderReport


async def put_reports(connection: asyncpg.Connection, worker_id: str, reports: Mapping[str, ProviderReport]) -> None:
    """Store a worker's reports in place of its earlier ones."""
    await _sql.put_reports.run(
        connection,
        worker_id=worker_id,
        providers=list(reports),
        reports=[msgspec.json.encode(report) for report in reports.values()],
    )


async def drop_reports(connection: asyncpg.Connection, worker_id: str) -> None:
    """Remove a worker's reports."""
    await _sql.drop_reports.run(connection, worker_id=worker_id)


async def sweep_reports(connection: asyncpg.Connection, *, older: timedelta) -> None:
    """Remove reports of an age above ``older``."""
    await _sql.sweep_reports.run(connection, seconds=older.total_seconds())


async def recent_reports(connection: asyncpg.Connection, *, within: timedelta) -> list[WorkerReport]:
    """Return the reports of an age up to ``within``."""
    return [
        WorkerReport(
            worker_id=row["worker_id"],
            provider=row["provider"],
            age_seconds=max(row["age"], 0.0),
            report=msgspec.json.decode(row["report"], type=ProviderReport),
        )
        for row in await _sql.recent_reports.rows(connection, seconds=within.total_seconds())
    ]
