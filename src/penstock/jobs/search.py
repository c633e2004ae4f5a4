"""Find jobs by any combination of filters, newest first, with a bounded amount of work per page.

The narrowest index that serves the filter yields candidates, and the rest of the filter is checked on those. A filter
that rarely matches would scan far, so a page stops after a budget of candidates, and its ``next_cursor`` continues
from there: a page may be short, even empty, while ``next_cursor`` is not null. So every request is fast on any number
of rows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from penstock.errors import InvalidInput
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import JobPage, JobSummary
from penstock.jobs.sql import idempotency, reading
from penstock.jobs.sql.rows import Connection
from penstock.tenants.principal import TenantId

_BUDGET = 20_000  # candidates that are checked for one page
_MIN, _MAX = UUID(int=0), UUID(int=2**128 - 1)
_CLOCK_SLACK = timedelta(hours=1)  # ids use the submitting process's clock, created_at the database's


async def page(
    connection: Connection, tenant: TenantId, where: JobFilter, *, limit: int, cursor: str | None
) -> JobPage:
    """Return up to ``limit`` jobs after ``cursor``; raises InvalidInput for a cursor that no list returned."""
    high = _parse_cursor(cursor) if cursor is not None else _MAX
    low = _MIN
    if where.created_after is not None:
        low = max(low, _id_floor(where.created_after - _CLOCK_SLACK))
    if where.created_before is not None:
        high = min(high, _id_floor(where.created_before + _CLOCK_SLACK))
    if where.owner_service and where.idempotency_key:
        held = await idempotency.find(connection, tenant, [(where.owner_service, where.idempotency_key)])
        candidates = [job_id for job_id in held.values() if low <= job_id < high]
        return JobPage(jobs=await reading.matching(connection, tenant, candidates, where), next_cursor=None)
    series: list[int] | None = None
    if where.owner_service or where.task_type or where.model_profile:
        series = await reading.match_series(connection, tenant, where)
        if not series:
            return JobPage(jobs=[], next_cursor=None)
    found: list[JobSummary] = []
    checked, step = 0, limit + 1
    while True:
        candidates = await reading.scan(connection, tenant, where, series=series, low=low, high=high, budget=step)
        matches = await reading.matching(connection, tenant, candidates, where) if candidates else []
        room = limit - len(found)
        found += matches[:room]
        if len(matches) > room:
            return JobPage(jobs=found, next_cursor=str(found[-1].id))
        if len(candidates) < step:
            return JobPage(jobs=found, next_cursor=None)
        high = candidates[-1]
        checked += step
        if len(found) == limit or checked >= _BUDGET:
            return JobPage(jobs=found, next_cursor=str(high))
        step = min(max(step * 4, 500), _BUDGET - checked)


def _parse_cursor(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError:
        raise InvalidInput.of("cursor", "must be the next_cursor of an earlier page") from None


def _id_floor(moment: datetime) -> UUID:
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)
