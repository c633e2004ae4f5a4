"""Read usage over HTTP, as JSON or CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

from penstock.errors import DatabaseUnavailable, InvalidInput, ScopeMissing
from penstock.postgres.pool import Database
from penstock.tenants import scopes
from penstock.tenants.principal import Principal, TenantId
from penstock.usage import examples
from penstock.usage.periods import midnight
from penstock.usage.report import COLUMNS, MAX_GROUPS, UsageReport, Wanted, default_range, make, words_of
from penstock.usage.spreadsheet import as_csv
from penstock.web.reading import moment
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_CSV: Final = b"text/csv; charset=utf-8"
_GROUPS: Final = 1000
_OPTIONS: Final = {"from": False, "to": False, "by": False, "time_zone": False, "format": False, "limit": False}
_MAX_VALUES: Final = 100  # of one filter
_TENANT: Final = "tenant"
_MEANINGS: Final = {
    "tenant": "for an operator: by the tenants' names; without it, the tenant that sends the request",
    "key": "the id of the key that sent the request",
    "user": "the end user",
    "price": "the id of the price that costs were computed with",
}


class UsageRoutes:
    """Returns sums of the ledger. ``currency`` comes from this gateway's price list."""

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency

    @route(
        "GET",
        "/api/v1/usage",
        name="getUsage",
        tag="Usage",
        summary="Read usage and cost, by time and any dimension",
        description=(
            "Sums of attempts and calls that ended from `from` up to `to`, exact up to this moment. `by` is a list of "
            "`hour`, `day` or `month`, of `queue`, and of dimensions: `day,model,user`. Days and months are those of "
            "`time_zone`. "
            "Groups come in the order of time, the most expensive first; those after `limit` are left out "
            "(`truncated`), but count in `totals`. `format=csv`, or `Accept: text/csv`, returns CSV."
        ),
        scope=scopes.USAGE_READ,
        parameters=(
            Parameter(name="from", type=str, description="a day, or a time with its offset; default: 29 days ago"),
            Parameter(name="to", type=str, description="a day or a time, not included; default: the end of this hour"),
            Parameter(name="by", type=str, description="a list such as `day,model,user`; default: one sum of all"),
            Parameter(name="time_zone", type=str, description="such as `Europe/Berlin`; default: `UTC`"),
            Parameter(name="format", type=str, description="`json` or `csv`"),
            Parameter(name="limit", type=int, description=f"at most {MAX_GROUPS} groups; default: {_GROUPS}"),
            *(
                Parameter(name=name, type=str, description=_MEANINGS.get(name, "any of these"), repeated=True)
                for name in COLUMNS
            ),
        ),
        responses={
            200: ResponseSpec(description="The sums", type=UsageReport, example=examples.REPORT, also=("text/csv",))
        },
        errors=(InvalidInput, ScopeMissing, DatabaseUnavailable),
    )
    async def usage(self, request: Request) -> Response:
        query = request.query(_OPTIONS | dict.fromkeys(COLUMNS, True))
        wanted = wanted_of(query, datetime.now(UTC))
        table = _wants_csv(query, request.header(b"accept"))
        report = await make(self._database, tenants_of(request.principal, wanted), wanted, currency=self._currency)
        if table:
            return Response(body=as_csv(report.by, report.groups).encode(), content_type=_CSV)
        return json_response(report)


def tenants_of(principal: Principal, wanted: Wanted) -> Sequence[TenantId] | None:
    """Return the tenants that the request names; None: all. Raises ScopeMissing for others than the sender's own."""
    if _TENANT not in wanted.by and _TENANT not in wanted.filters:
        return [principal.tenant]
    principal.require(scopes.OPERATOR)
    return None


def wanted_of(query: Mapping[str, Sequence[str]], now: datetime) -> Wanted:
    """Return the report that a query's parameters describe; raises InvalidInput."""
    zone = _zone(query.get("time_zone", ("UTC",))[0])
    low, high = default_range(zone, now)
    unit, by = words_of(query.get("by", ("",))[0])
    for name in COLUMNS:
        if len(query.get(name, ())) > _MAX_VALUES:
            raise InvalidInput.of(name, f"must be given at most {_MAX_VALUES} times")
    return Wanted(
        low=_moment(query["from"][0], "from", zone) if "from" in query else low,
        high=_moment(query["to"][0], "to", zone) if "to" in query else high,
        zone=zone,
        unit=unit,
        by=by,
        filters={name: list(query[name]) for name in COLUMNS if name in query},
        limit=_limit(query["limit"][0]) if "limit" in query else _GROUPS,
    )


def _wants_csv(query: Mapping[str, Sequence[str]], accept: str | None) -> bool:
    if "format" in query:
        (stated,) = query["format"]
        if stated not in {"json", "csv"}:
            raise InvalidInput.of("format", "must be json or csv")
        return stated == "csv"
    return accept is not None and accept.partition(";")[0].strip().lower() == "text/csv"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not a name, not a file
        raise InvalidInput.of("time_zone", "must be the name of a time zone, such as Europe/Berlin") from None


def _moment(text: str, name: str, zone: ZoneInfo) -> datetime:
    """Return the time that a parameter states; a day begins at its midnight in the zone."""
    try:
        day = date.fromisoformat(text) if len(text) == len("2026-01-30") else None
    except ValueError:
        day = None
    if day is None:
        return moment(text, name)
    if not 1 < day.year < 9999:
        raise InvalidInput.of(name, "must lie in the years 2 to 9998")
    return midnight(day, zone)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MAX_GROUPS):
        raise InvalidInput.of("limit", f"must be a number from 1 to {MAX_GROUPS}")
    return int(text)
