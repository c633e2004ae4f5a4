"""Records of requests in the database: typed functions for ``records.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from penstock import durations
from penstock.apps.sums import Key, Record, Sums, Used
from penstock.flows.sql.duties import mailed_of
from penstock.jobs.sql.rows import Mailed
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection

_USED: Final = tuple(name for name in Used.__slots__ if name not in {"attempts", "cost"})
_SEPARATOR: Final = "\x1f"  # of the steps of a path; names in results that have it are not found

_sql = queries.load(__file__, "records.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a tenant's events have become records, and what follows."""

    position: int
    page_end: int | None  # None: there is nothing behind it
    last: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An event about a job of a request."""

    position: int
    job_id: UUID
    epoch: int | None  # of an attempt that has ended
    is_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePage:
    changes: Sequence[Change]
    more: bool  # whether some were left out


async def begin_cursors(connection: Connection) -> bool:
    """Add cursors of tenants that have none; return whether there are any."""
    found: bool = await _sql.begin_cursors.value(connection)
    return found


async def cursors_behind(connection: Connection, *, limit: int) -> list[TenantId]:
    """Return tenants that have events which are not in records yet."""
    return [TenantId(row["tenant_id"]) for row in await _sql.cursors_behind.rows(connection, limit=limit)]


async def lock_progress(connection: Connection, tenant: TenantId, *, limit: int) -> Cursor | None:
    """Lock a tenant's cursor; return None if another process has it."""
    row = await _sql.lock_progress.row(connection, tenant_id=tenant, limit=limit)
    return None if row is None else Cursor(**row)


async def changes(connection: Connection, tenant: TenantId, *, behind: int, upto: int, max_jobs: int) -> ChangePage:
    """Return the events about jobs of requests, in order."""
    rows = await _sql.changes.rows(connection, tenant_id=tenant, behind=behind, upto=upto, max_jobs=max_jobs)
    found = [
        Change(position=row["position"], job_id=row["job_id"], epoch=row["epoch"], is_run=row["is_run"]) for row in rows
    ]
    more = bool(rows) and rows[0]["available"] > len({change.position for change in found})
    return ChangePage(changes=found, more=more)


async def requests_of(
    connection: Connection, tenant: TenantId, job_ids: Sequence[UUID]
) -> dict[UUID, tuple[UUID, str]]:
    """Return the request (its run, and its app) that each job belongs to."""
    rows = await _sql.requests_of.rows(connection, tenant_id=tenant, job_ids=list(job_ids))
    return {row["job_id"]: (row["run_id"], row["app"]) for row in rows}


async def states(
    connection: Connection, tenant: TenantId, requests: Mapping[UUID, tuple[str, Sequence[str] | None]]
) -> dict[UUID, Record]:
    """Return requests (by run: app, and path of the units in the result) as they are now, without their usage."""
    rows = await _sql.states.rows(
        connection,
        tenant_id=tenant,
        run_ids=list(requests),
        paths=[None if path is None else _SEPARATOR.join(path) for _, path in requests.values()],
    )
    return {row["run_id"]: Record(app=requests[row["run_id"]][0], used=Used(), position=0, **dict(row)) for row in rows}


async def usage_of(
    connection: Connection, tenant: TenantId, attempts: Sequence[tuple[UUID, int]]
) -> dict[tuple[UUID, int], Used]:
    """Return what attempts (job, epoch) have used."""
    rows = await _sql.usage_of.rows(
        connection, tenant_id=tenant, job_ids=[job for job, _ in attempts], epochs=[epoch for _, epoch in attempts]
    )
    return {(row["job_id"], row["epoch"]): Used(cost=row["cost"], **{n: row[n] for n in _USED}) for row in rows}


async def lock_requests(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, Record]:
    """Lock the records of requests, and return those that there are."""
    rows = await _sql.lock_requests.rows(connection, tenant_id=tenant, run_ids=list(run_ids))
    return {row["run_id"]: record_of(row) for row in rows}


async def store(
    connection: Connection, tenant: TenantId, found: Sequence[Record], *, keep: Mapping[str, timedelta]
) -> None:
    """Store records, which the caller has locked. Results of apps in ``keep`` are removed that long after the end."""
    await _sql.store.run(
        connection,
        tenant_id=tenant,
        run_ids=[one.run_id for one in found],
        apps=[one.app for one in found],
        user_ids=[one.user_id for one in found],
        days=[one.day for one in found],
        statuses=[one.status for one in found],
        created_ats=[one.created_at for one in found],
        started_ats=[one.started_at for one in found],
        finished_ats=[one.finished_at for one in found],
        error_categories=[one.error_category for one in found],
        units=[one.units for one in found],
        positions=[one.position for one in found],
        keep_seconds=[keep[one.app].total_seconds() if one.app in keep else None for one in found],
        **_columns([one.used for one in found]),
    )


async def add(connection: Connection, tenant: TenantId, found: Mapping[Key, Sums]) -> None:
    """Add changes to sums."""
    sums = list(found.values())
    await _sql.add.run(
        connection,
        tenant_id=tenant,
        apps=[app for app, _, _ in found],
        user_ids=[user for _, user, _ in found],
        days=[day for _, _, day in found],
        requests=[one.requests for one in sums],
        completed=[one.completed for one in sums],
        failed=[one.failed for one in sums],
        cancelled=[one.cancelled for one in sums],
        wait_us=[one.wait_us for one in sums],
        run_us=[one.run_us for one in sums],
        units=[one.units for one in sums],
        times=[_array_literal(one.times) for one in sums],
        **_columns([one.used for one in sums]),
    )


async def advance(connection: Connection, tenant: TenantId, position: int) -> None:
    await _sql.advance.run(connection, tenant_id=tenant, position=position)


async def drop_from_default(connection: Connection, *, before: date, limit: int) -> int:
    """Remove old records from the default partition; return how many."""
    number: int = await _sql.drop_from_default.value(connection, before=before, limit=limit)
    return number


async def drop_sums(connection: Connection, *, keep: timedelta, limit: int) -> int:
    """Remove old sums by user; return how many."""
    number: int = await _sql.drop_sums.value(connection, days=keep.days, limit=limit)
    return number


def record_of(row: asyncpg.Record) -> Record:
    """Return a row of ``app_request``."""
    own = {name: row[name] for name in Record.__slots__ if name != "used"}
    return Record(used=used_of(row), **own)


def used_of(row: asyncpg.Record) -> Used:
    """Return the columns of a row that hold usage."""
    return Used(**{name: row[name] for name in Used.__slots__})


def _columns(found: Sequence[Used]) -> dict[str, object]:
    plain = {name: [getattr(one, name) for one in found] for name in ("attempts", *_USED)}
    return {**plain, "costs": [one.cost for one in found]}


def _array_literal(times: Mapping[int, int]) -> str:
    """Return counts by class as PostgreSQL writes an array."""
    return "{" + ",".join(str(times.get(place, 0)) for place in range(max(times, default=-1) + 1)) + "}"


async def drop_results(connection: Connection, *, limit: int) -> int:
    """Remove results of requests that are kept no longer; return how many."""
    number: int = await _sql.drop_results.value(connection, limit=limit)
    return number


async def time_out(
    connection: Connection, limits: Mapping[str, timedelta], *, limit: int
) -> tuple[dict[TenantId, Mailed], bool]:
    """Request that the requests of apps which have taken longer than these limits end; return their runs, and whether
    there may be more."""
    rows = await _sql.time_out.rows(
        connection,
        apps=list(limits),
        seconds=[one.total_seconds() for one in limits.values()],
        messages=[f"the request did not end within {durations.text(one)}" for one in limits.values()],
        limit=limit,
    )
    return mailed_of(rows), bool(rows) and rows[0]["found"] >= limit
