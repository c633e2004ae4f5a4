"""Read the statistics of an app's requests."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import Annotated
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct, field

from penstock.apps.http import examples
from penstock.apps.http.base import APP, TAG
from penstock.apps.service import AppService
from penstock.apps.statistics import MAX_DAYS, MAX_REQUESTS, Statistics, WantedRequests
from penstock.apps.views import AppStatistics
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, ScopeMissing
from penstock.jobs.fields import PLAIN
from penstock.tenants import scopes
from penstock.usage.periods import midnight
from penstock.web.reading import moment
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_LIMIT = 50


class _Wanted(Struct, frozen=True, kw_only=True):
    """The query."""

    user_id: Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)] | None = None
    since: str | None = field(default=None, name="from")
    to: str | None = None
    results: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_REQUESTS)] = _LIMIT
    cursor: str | None = None


class StatisticsRoutes:
    """Returns sums of an app's requests, and the requests."""

    def __init__(self, service: AppService, statistics: Statistics) -> None:
        self._service = service
        self._statistics = statistics

    @route(
        "GET",
        "/api/v1/apps/{app}/stats",
        name="getAppStatistics",
        tag=TAG,
        scope=scopes.USAGE_READ,
        summary="Read how many requests were made, how they ended, how long they took, and what they used",
        description="Sums of the requests that were made from the day `from` up to, but not including, the day `to`, "
        "for one user or all, by day. Days are those of the tenant's time zone. With `results=true` (scope "
        "`jobs:read`) the requests come with them, newest first, by the page.",
        path_parameters=(APP,),
        parameters=(
            Parameter(name="user_id", type=str, description="of this user"),
            Parameter(name="from", type=str, description="a day, or its beginning as a time; default: 29 days ago"),
            Parameter(name="to", type=str, description="a day or its beginning, not included; default: tomorrow"),
            Parameter(name="results", type=bool, description="return the requests as well"),
            Parameter(name="limit", type=int, description=f"the most requests of a page, up to {MAX_REQUESTS}"),
            Parameter(name="cursor", type=str, description="`next_cursor` of the page before"),
        ),
        responses={200: ResponseSpec(description="The sums", type=AppStatistics, example=examples.STATISTICS)},
        errors=(InvalidInput, NotFound, ScopeMissing, DatabaseUnavailable),
    )
    async def statistics(self, request: Request) -> Response:
        wanted = request.query_as(_Wanted)
        app, sender = request.path("app"), request.principal
        if wanted.results:
            sender.require(scopes.JOBS_READ)
        elif wanted.cursor is not None:
            raise InvalidInput.of("cursor", "requires results=true")
        await self._service.require(sender, app)
        calendar = await self._statistics.calendar(sender.tenant)
        low, high = calendar.last_days
        if wanted.to is not None:
            high = _day(wanted.to, "to", calendar.zone)
            low = min(low, high - timedelta(days=1))
        if wanted.since is not None:
            low = _day(wanted.since, "from", calendar.zone)
        if low >= high:
            raise InvalidInput.of("to", "must be after from")
        if (high - low).days > MAX_DAYS:
            raise InvalidInput.of("from", f"must be at most {MAX_DAYS} days before to")
        page = WantedRequests(below=_run(wanted.cursor), limit=wanted.limit) if wanted.results else None
        found = await self._statistics.of_app(
            sender.tenant, app, user_id=wanted.user_id, low=low, high=high, zone=calendar.zone, page=page
        )
        return json_response(found)


def _day(text: str, name: str, zone: ZoneInfo) -> date:
    """Return the day that a parameter states, or that begins at the time that it states."""
    try:
        day = date.fromisoformat(text) if len(text) == len("2026-01-30") else None
    except ValueError:
        day = None
    if day is None:
        try:
            stated = moment(text, name).astimezone(UTC)
        except InvalidInput:
            detail = "must be a day such as 2026-01-30, or its beginning as a time with its offset"
            raise InvalidInput.of(name, detail) from None
        day = stated.astimezone(zone).date()
        if midnight(day, zone) != stated:
            raise InvalidInput.of(name, f"must be the beginning of a day in the time zone {zone.key}")
    if not 1 < day.year < 9999:
        raise InvalidInput.of(name, "must lie in the years 2 to 9998")
    return day


def _run(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise InvalidInput.of("cursor", "must be the next_cursor of a page") from None
