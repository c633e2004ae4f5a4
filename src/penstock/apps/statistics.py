"""Statistics of the requests of an app: sums by day, and pages of the requests themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Raw

from penstock.apps import catalogue, records
from penstock.apps.sums import ALL_USERS, Record, Sums, Used
from penstock.apps.views import AppStatistics, DayCounts, PastRequest, RequestPage, RequestUsage
from penstock.failures import Category
from penstock.jobs.job import JobError
from penstock.jobs.states import Status
from penstock.postgres import queries
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId
from penstock.usage.prices import decimal

MAX_DAYS: Final = 1100
MAX_REQUESTS: Final = 100  # of a page
_DEFAULT_DAYS: Final = 30
_RESULT_BYTES: Final = 16 * 2**10  # of a result in a page; larger ones are left out
_MAX_UUID: Final = UUID(int=2**128 - 1)

_sql = queries.load(__file__, "statistics.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The calendar of a tenant."""

    zone: ZoneInfo
    today: date

    @property
    def last_days(self) -> tuple[date, date]:
        """The range of the last thirty days, today included."""
        end = self.today + timedelta(days=1)
        return end - timedelta(days=_DEFAULT_DAYS), end


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRequests:
    """A page of requests, newest first: those that are older than a run."""

    below: UUID | None
    limit: int


class Statistics:
    """The statistics of each tenant's requests, as far as the housekeeper has recorded them: about a second ago."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def calendar(self, tenant: TenantId) -> Calendar:
        async with self._database.acquire() as connection:
            row = await _sql.calendar.row(connection, tenant_id=tenant)
        assert row is not None  # noqa: S101 - the tenant sends the request
        return Calendar(zone=ZoneInfo(row["time_zone"]), today=row["today"])

    async def record(self, tenant: TenantId, run_id: UUID) -> Record | None:
        """Return the record of a request; None if there is none yet, or not any more."""
        async with self._database.acquire() as connection:
            row = await _sql.record.row(connection, tenant_id=tenant, run_id=run_id)
        return None if row is None else records.record_of(row)

    async def of_app(
        self,
        tenant: TenantId,
        app: str,
        *,
        user_id: str | None,
        low: date,
        high: date,
        zone: ZoneInfo,
        page: WantedRequests | None,
    ) -> AppStatistics:
        """Return the statistics of an app's requests from a day up to another, not included."""
        async with self._database.acquire() as connection:
            rows = await _sql.days.rows(
                connection, tenant_id=tenant, app=app, user_id=user_id or ALL_USERS, low=low, high=high
            )
            published = await catalogue.find(connection, app)
            found = None if page is None else await _requests(connection, tenant, app, user_id, (low, high), page)
        total, days = Sums(), []
        for row in rows:
            sums = _sums(row)
            total.merge(sums)
            if sums.requests:
                days.append(DayCounts(day=row["day"], **_shown(sums)))
        unit = published.manifest.price.unit if published is not None and published.manifest is not None else "request"
        return AppStatistics(
            app=app,
            user_id=user_id,
            since=low,
            to=high,
            time_zone=zone.key,
            **_shown(total),
            price_unit=unit,
            days=days,
            results=found,
        )


async def _requests(
    connection: asyncpg.Connection,
    tenant: TenantId,
    app: str,
    user_id: str | None,
    days: tuple[date, date],
    page: WantedRequests,
) -> RequestPage:
    bounds = {"low": days[0], "high": days[1], "below": page.below or _MAX_UUID, "limit": page.limit}
    if user_id is None:
        rows = await _sql.requests_of_all.rows(connection, tenant_id=tenant, app=app, **bounds)
    else:
        rows = await _sql.requests_of_user.rows(connection, tenant_id=tenant, app=app, user_id=user_id, **bounds)
    found = [records.record_of(row) for row in rows]
    outcomes = await _sql.outcomes.rows(
        connection, tenant_id=tenant, run_ids=[record.run_id for record in found], max_bytes=_RESULT_BYTES
    )
    by_run = {row["run_id"]: row for row in outcomes}
    return RequestPage(
        requests=[_past(record, by_run.get(record.run_id)) for record in found],
        next_cursor=str(found[-1].run_id) if len(found) == page.limit else None,
    )


def _past(record: Record, outcome: asyncpg.Record | None) -> PastRequest:
    category = record.error_category
    message = "" if outcome is None else outcome["error_message"] or ""
    live = outcome["status"] if record.status == "open" and outcome is not None else record.status
    return PastRequest(
        task_id=record.run_id,
        user_id=record.user_id,
        status=Status.PENDING if live == "open" else Status(live),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        units=float(record.units),
        usage=usage_of(record.used),
        error=None if category is None else JobError(category=Category(category), message=message),
        result=None if outcome is None or outcome["result"] is None else Raw(outcome["result"]),
        result_left_out=bool(outcome is not None and outcome["too_large"]),
    )


def _sums(row: asyncpg.Record) -> Sums:
    plain = ("requests", "completed", "failed", "cancelled", "wait_us", "run_us", "units")
    times = {place: count for place, count in enumerate(row["times"]) if count}
    return Sums(used=records.used_of(row), times=times, **{name: row[name] for name in plain})


def _shown(sums: Sums) -> dict[str, Any]:
    ended = sums.completed + sums.failed + sums.cancelled
    return {
        "requests": sums.requests,
        "open": sums.open,
        "completed": sums.completed,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "wait_seconds": round(sums.wait_us / 1e6 / ended, 6) if ended else None,
        "run_seconds": round(sums.run_us / 1e6 / ended, 6) if ended else None,
        "p50_seconds": _seconds(sums.quantile(0.5)),
        "p95_seconds": _seconds(sums.quantile(0.95)),
        "units": float(sums.units),
        "usage": usage_of(sums.used),
    }


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else round(time.total_seconds(), 3)


def usage_of(used: Used) -> RequestUsage:
    """Return usage as callers see it."""
    return RequestUsage(
        attempts=used.attempts,
        calls=used.calls,
        failures=used.failures,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        audio_seconds=used.audio_us / 1e6,
        model_seconds=used.model_us / 1e6,
        cost=decimal(int(used.cost)),
    )
