"""The sums of the ledger that make up the buckets of a report: pure functions.

The ledger has sums by hour, day and month, all in UTC. A bucket is an hour, a day or a month of a time zone, or the
whole range. It consists of the whole UTC months in it, the whole days before and after them, and the hours before
and after those days. For tenants whose time zone is not a whole number of hours from UTC, the sums of hours are sums of
quarters of hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from penstock.errors import InvalidInput

Unit = Literal["hour", "day", "month"]
MAX_BUCKETS: Final = 1000
_HOUR: Final = timedelta(hours=1)
_QUARTER: Final = timedelta(minutes=15)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Range:
    """Hours (or quarters of them), days or months of UTC, up to but not including ``high``."""

    unit: Unit
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket of time: its start in its zone, and the ranges that make it up, in order."""

    start: datetime
    ranges: tuple[Range, ...]


def buckets(low: datetime, high: datetime, unit: Unit | None, zone: ZoneInfo) -> list[Bucket]:
    """Return the buckets of a range, without those parts of the first and the last one that lie outside.

    Raises InvalidInput for a range that is empty or does not begin and end with whole hours of UTC or of the zone, for
    a zone whose days do not begin with a quarter of an hour of UTC, and for too many buckets.
    """
    _check_offset(low, zone)
    for name, moment in (("from", low), ("to", high)):
        if _within_hour(moment.astimezone(UTC)) and _within_hour(moment.astimezone(zone)):
            raise InvalidInput.of(name, "must be a whole hour of UTC: usage is summed up by hour")
    if low >= high:
        raise InvalidInput.of("to", "must be after from")
    found: list[Bucket] = []
    for start, end in _parts(low, high, unit, zone):
        if len(found) == MAX_BUCKETS:
            raise InvalidInput.of("by", f"gives more than {MAX_BUCKETS} buckets of time: state a shorter range")
        found.append(_bucket(start, end, zone, hourly=unit == "hour"))
    return found


def needs_quarters(found: Sequence[Bucket]) -> bool:
    """Return whether a bucket begins or ends within an hour of UTC."""
    return any(_within_hour(part.low) or _within_hour(part.high) for bucket in found for part in bucket.ranges)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the beginning of a day."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _parts(low: datetime, high: datetime, unit: Unit | None, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    start = low.astimezone(UTC)
    high = high.astimezone(UTC)
    while start < high:
        end = high if unit is None else min(_next(start, unit, zone), high)
        _check_offset(end, zone)
        yield start, end
        start = end


def _next(moment: datetime, unit: Unit, zone: ZoneInfo) -> datetime:
    """Return the beginning of the next bucket."""
    if unit == "hour":
        return moment + _HOUR - _within_hour(moment.astimezone(zone))
    today = moment.astimezone(zone).date()
    if unit == "day":
        return midnight(today + _DAY, zone)
    return midnight(_next_month(today), zone)


def _bucket(start: datetime, end: datetime, zone: ZoneInfo, *, hourly: bool) -> Bucket:
    shown = start.astimezone(zone)
    days = Range("day", _next_midnight(start), midnight(end.date(), _UTC))
    if hourly or days.low >= days.high:
        return Bucket(start=shown, ranges=(Range("hour", start, end),))
    months = Range("month", _next_first(days.low), days.high.replace(day=1))
    if months.low >= months.high:
        middle = [days]
    else:
        middle = [Range("day", days.low, months.low), months, Range("day", months.high, days.high)]
    parts = [Range("hour", start, days.low), *middle, Range("hour", days.high, end)]
    return Bucket(start=shown, ranges=tuple(part for part in parts if part.low < part.high))


def _next_midnight(moment: datetime) -> datetime:
    """Return the beginning of the next UTC day, or the moment itself if a day begins then."""
    day = moment.date()
    return moment if moment.time() == time() else midnight(day + _DAY, _UTC)


def _next_first(midnight: datetime) -> datetime:
    """Return the beginning of the next UTC month, or the moment itself if a month begins then."""
    return midnight if midnight.day == 1 else (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _check_offset(moment: datetime, zone: ZoneInfo) -> None:
    """Raise InvalidInput for a zone whose hours do not begin with a quarter of an hour of UTC."""
    if (moment.astimezone(zone).utcoffset() or timedelta(0)) % _QUARTER:
        raise InvalidInput.of("time_zone", "must be a whole number of quarters of an hour from UTC during the range")


def _within_hour(moment: datetime) -> timedelta:
    """Return how far a moment is from the beginning of its hour."""
    return timedelta(minutes=moment.minute, seconds=moment.second, microseconds=moment.microsecond)


_UTC: Final = ZoneInfo("UTC")
