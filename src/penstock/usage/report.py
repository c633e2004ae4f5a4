"""Reports on usage: sums over a range of time, by any of the ledger's dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Struct, field

from penstock.errors import InvalidInput
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.tenants.principal import TenantId
from penstock.usage.periods import Unit, buckets, midnight, needs_quarters
from penstock.usage.prices import decimal
from penstock.usage.spreadsheet import MEASURES
from penstock.usage.sql import reading

COLUMNS: Final[Mapping[str, str]] = {  # of the ledger's dimensions
    "tenant": "tenant_name", "key": "key_id", "user": "user_id", "owner_service": "owner_service",
    "task_type": "task_type", "model_profile": "model_profile", "provider": "provider", "model": "model",
    "version": "version", "app": "app", "price": "price",
}  # fmt: skip
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_QUEUE: Final = ("task_type", "model_profile")
_WORDS: Final = (*UNITS, "queue", *COLUMNS)
MAX_GROUPS: Final = 10_000
_COUNTS: Final = (
    "attempts", "calls", "failures", "unreported", "unpriced", "prompt_tokens", "completion_tokens", "bytes_in",
    "bytes_out", "sessions",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The parameters of a report. ``filters`` holds the allowed values of some dimensions."""

    low: datetime
    high: datetime
    zone: ZoneInfo
    unit: Unit | None
    by: Sequence[str]  # dimensions
    filters: Mapping[str, list[str]]
    limit: int


class UsageReport(Struct, frozen=True, kw_only=True):
    """Sums of usage. Each group has the bucket of time and the dimensions that it is for, and the measures."""

    since: datetime = field(name="from")
    to: datetime  # exclusive
    time_zone: str  # of the buckets
    currency: str  # of costs: decimal numbers, exact
    by: list[str]
    groups: list[dict[str, Any]]
    totals: dict[str, Any]  # of all groups, including those that were left out
    truncated: bool  # there are more groups than the limit


async def make(database: Database, tenants: Sequence[TenantId] | None, wanted: Wanted, *, currency: str) -> UsageReport:
    """Return the report of some tenants, or of all (None). Raises InvalidInput and DatabaseUnavailable."""
    parts = buckets(wanted.low, wanted.high, wanted.unit, wanted.zone)
    async with database.acquire() as connection:
        if tenants is None:
            tenants = await reading.tenants(connection)
        if needs_quarters(parts) and not await reading.by_quarters(connection, tenants):
            raise InvalidInput.of(
                "time_zone",
                "must be a whole number of hours from UTC: usage is summed up by hour, except for tenants whose own "
                "time zone is none",
            )
        rows, total = await reading.report(
            connection,
            tenants,
            buckets=parts,
            by=wanted.by,
            filters={name: wanted.filters.get(name) for name in COLUMNS},
            limit=wanted.limit + 1,
        )
    groups = []
    for row in rows[: wanted.limit]:
        group: dict[str, Any] = {}
        if wanted.unit is not None:
            group[wanted.unit] = _shown(parts[row["bucket"]].start, wanted.unit)
        groups.append(group | {name: row[COLUMNS[name]] for name in wanted.by} | _measures(row))
    return UsageReport(
        since=wanted.low.astimezone(wanted.zone),
        to=wanted.high.astimezone(wanted.zone),
        time_zone=wanted.zone.key,
        currency=currency,
        by=[*([wanted.unit] if wanted.unit else []), *wanted.by],
        groups=groups,
        totals=_measures(total),
        truncated=len(rows) > wanted.limit,
    )


def words_of(by: str) -> tuple[Unit | None, list[str]]:
    """Return the unit of time and the dimensions that ``by`` names, such as "day,model"; raises InvalidInput."""
    units: list[Unit] = []
    dimensions: list[str] = []
    for word in (part.strip() for part in by.split(",")):
        if not word:
            continue
        if word in UNITS:
            units += [unit for unit in UNITS if unit == word]
        elif word == "queue":
            dimensions += _QUEUE
        elif word in COLUMNS:
            dimensions.append(word)
        else:
            meant = did_you_mean(word, _WORDS) or f"; there are: {', '.join(_WORDS)}"
            raise InvalidInput.of("by", f"names {word[:100]!r}, which is not known here{meant}")
    if len(units) > 1:
        raise InvalidInput.of("by", f"must name at most one of {', '.join(UNITS)}")
    return (units[0] if units else None), list(dict.fromkeys(dimensions))


def default_range(zone: ZoneInfo, now: datetime) -> tuple[datetime, datetime]:
    """Return the range of the last thirty days, today included, up to the end of the present hour."""
    high = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    return midnight(now.astimezone(zone).date() - timedelta(days=29), zone), high


def _shown(start: datetime, unit: Unit) -> str:
    match unit:
        case "hour":
            return start.isoformat()
        case "day":
            return start.date().isoformat()
        case "month":
            return start.strftime("%Y-%m")


def _measures(row: asyncpg.Record) -> dict[str, Any]:
    found: dict[str, Any] = {name: int(row[name]) for name in _COUNTS}
    found["audio_seconds"] = int(row["audio_us"]) / 1e6
    found["model_seconds"] = int(row["model_us"]) / 1e6
    found["cost"] = decimal(int(row["cost"]))
    return {name: found[name] for name in MEASURES}
