"""The steps of a run for display. Reading them never executes code."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw

from penstock.failures import Category
from penstock.flows.kernel.records import StepKind, Target
from penstock.flows.sql import runs
from penstock.flows.sql.faults import fault_of
from penstock.flows.views import MapCounts, StepView
from penstock.jobs.announcements import FLOW
from penstock.jobs.job import Job, JobError
from penstock.jobs.sql.rows import Connection
from penstock.tenants.principal import TenantId

_ENDLESS: Final = frozenset(
    {StepKind.PUBLISH, StepKind.PROGRESS, StepKind.COMPENSATION}
)  # kinds of steps that have no end


async def page_of_steps(
    connection: Connection, tenant: TenantId, run: Job, *, from_no: int, limit: int
) -> tuple[list[StepView], int | None]:
    """Return steps of a run, starting at a number, and the number at which the next page begins."""
    rows = await runs.tree_steps(connection, tenant, run.id, from_no=from_no, limit=limit + 1)
    rows, more = rows[:limit], rows[limit:]
    if not rows:
        return [], None
    low, high = rows[0]["no"], rows[-1]["no"]
    ends = await runs.tree_ends(connection, tenant, run.id, low=low, high=high)
    received = await runs.received_signals(connection, tenant, run.id, low=low, high=high)
    jobs = await runs.tree_jobs(connection, tenant, [row["job_id"] for row in rows if row["job_id"] is not None])
    maps = [row["job_id"] for row in rows if row["kind"] == StepKind.MAP and row["job_id"] is not None]
    counts = await runs.map_counts(connection, tenant, maps) if maps else {}
    steps = [
        _step(row, ends.get(row["no"]), jobs.get(row["job_id"]), counts.get(row["job_id"]), run, received=received)
        for row in rows
    ]
    return steps, more[0]["no"] if more else None


def _step(
    row: asyncpg.Record,
    end: asyncpg.Record | None,
    job: asyncpg.Record | None,
    counts: asyncpg.Record | None,
    run: Job,
    *,
    received: Collection[int],
) -> StepView:
    job_id: UUID | None = row["job_id"]
    return StepView(
        no=row["no"],
        key=row["key"],
        kind=row["kind"],
        name=row["name"],
        status="completed" if row["no"] in received else _status(row["kind"], end, job, run),
        job_id=job_id,
        is_run=row["kind"] == StepKind.CALL and _task_type(row) == FLOW,
        issued_at=row["at"],
        started_at=job["started_at"] if job else None,
        finished_at=end["at"] if end else job["finished_at"] if job else None,
        due_at=None if row["due"] is None else _moment(row["due"]),
        attempt=job["attempt"] if job else None,
        hold=job["hold"] if job else None,
        error=_error(end, job),
        items=_items(counts, job) if row["kind"] == StepKind.MAP else None,
        progress=Raw(job["progress"]) if row["kind"] == StepKind.CALL and job and job["progress"] else None,
    )


def _task_type(row: asyncpg.Record) -> str | None:
    target = row["target"]
    return None if target is None else msgspec.json.decode(target, type=Target).task_type


def _status(kind: str, end: asyncpg.Record | None, job: asyncpg.Record | None, run: Job) -> str:
    if end is not None:
        return end["status"] or "completed"  # a timer that has fired has no status
    if job is not None:
        return str(job["status"])
    if kind in _ENDLESS:
        return "recorded"
    return "dropped" if run.status.finished else "waiting"


def _error(end: asyncpg.Record | None, job: asyncpg.Record | None) -> JobError | None:
    if end is not None and end["category"] is not None:
        fault = fault_of(end["category"], end["message"] or "")
        return JobError(category=fault.category, message=fault.message)
    if job is not None and job["error_category"] is not None:
        return JobError(category=Category(job["error_category"]), message=job["error_message"] or "")
    return None


def _items(counts: asyncpg.Record | None, job: asyncpg.Record | None) -> MapCounts | None:
    """Return the counts of a map: of its blocks or, when it has ended, as its job has stored them."""
    if counts is not None:
        ended = counts["items"] - counts["waiting"] - counts["running"]
        return MapCounts(
            items=counts["items"],
            waiting=counts["waiting"],
            running=counts["running"],
            completed=ended - counts["failed"],
            failed=counts["failed"],
        )
    if job is None or job["progress"] is None:
        return None
    return msgspec.json.decode(job["progress"], type=MapCounts)


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None
