"""Buckets of time cover their range exactly once, across month ends and changes of summer time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.usage.periods import Bucket, Range, Unit, buckets, midnight, needs_quarters

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


def _hours_of(bucket: Bucket) -> list[datetime]:
    """Return the beginning of each UTC hour of a bucket."""
    return [part.low + n * HOUR for part in bucket.ranges for n in range(round((part.high - part.low) / HOUR))]


@given(
    first=st.integers(0, 4 * 366 * 24),
    hours=st.integers(1, 24 * 70),
    unit=st.sampled_from([None, "day", "month"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "Pacific/Kiritimati"]),
)
def test_each_hour_of_a_range_is_in_one_bucket_that_of_its_day_or_month(
    first: int, hours: int, unit: Unit | None, zone: str
) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC) + first * HOUR
    own = ZoneInfo(zone)
    found = buckets(start, start + hours * HOUR, unit, own)
    assert sorted(hour for bucket in found for hour in _hours_of(bucket)) == [start + n * HOUR for n in range(hours)]
    for bucket in found:
        days = {hour.astimezone(own).date() for hour in _hours_of(bucket)}
        for part in bucket.ranges:
            assert part.unit == "hour" or {part.low.hour, part.high.hour} == {0}
            assert part.unit != "month" or {part.low.day, part.high.day} == {1}
        if unit == "day":
            assert days == {bucket.start.date()}
        elif unit == "month":
            assert {(day.year, day.month) for day in days} == {(bucket.start.year, bucket.start.month)}


def test_a_whole_month_of_utc_is_read_as_one() -> None:
    (month,) = buckets(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), "month", ZoneInfo("UTC"))
    assert month.ranges == (Range("month", datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),)


def test_a_month_of_another_zone_is_its_whole_utc_days_and_the_hours_at_its_ends() -> None:
    low, high = datetime(2026, 3, 1, tzinfo=BERLIN), datetime(2026, 4, 1, tzinfo=BERLIN)
    (month,) = buckets(low, high, "month", BERLIN)
    first, days, last = month.ranges
    assert days == Range("day", datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC))
    lengths = [(part.high - part.low) / HOUR for part in (first, last)]
    assert lengths == [1, 22], "summer time began: the month ends at 22:00 UTC"


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"])
@pytest.mark.parametrize("unit", ["hour", "day", "month"])
def test_each_quarter_of_an_hour_is_in_the_bucket_of_a_zone_whose_hours_are_not_those_of_utc(
    zone: str, unit: Unit
) -> None:
    own, quarter = ZoneInfo(zone), timedelta(minutes=15)
    low, high = midnight(date(2026, 3, 20), own), midnight(date(2026, 4, 10), own)
    found = buckets(low, high, unit, own)
    assert needs_quarters(found)
    quarters = [
        (bucket, part.low + n * quarter)
        for bucket in found
        for part in bucket.ranges
        for n in range(round((part.high - part.low) / quarter))
    ]
    assert [moment for _, moment in quarters] == [low + n * quarter for n in range(round((high - low) / quarter))]
    for bucket, moment in quarters:
        here = moment.astimezone(own)
        if unit == "hour":
            assert (here.date(), here.hour) == (bucket.start.date(), bucket.start.hour)
        elif unit == "day":
            assert here.date() == bucket.start.date()
        else:
            assert (here.year, here.month) == (bucket.start.year, bucket.start.month)


def test_whole_utc_hours_suffice_for_other_zones() -> None:
    low, high = midnight(date(2026, 3, 20), BERLIN), midnight(date(2026, 4, 10), BERLIN)
    assert not needs_quarters(buckets(low, high, "day", BERLIN))


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)])
def test_a_day_on_which_the_clocks_change_has_23_or_25_hours(day: date, hours: int) -> None:
    low = datetime(day.year, day.month, day.day, tzinfo=BERLIN)
    (found,) = buckets(low, low + timedelta(days=1), "day", BERLIN)
    assert len(_hours_of(found)) == hours


@pytest.mark.parametrize(
    ("low", "high", "unit", "zone", "field"),
    [
        (datetime(2026, 1, 1, 0, 30, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), "day", "UTC", "from"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, 0, 0, 1, tzinfo=UTC), None, "UTC", "to"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), None, "UTC", "to"),
        (datetime(1930, 1, 1, tzinfo=UTC), datetime(1930, 1, 3, tzinfo=UTC), "day", "Europe/Amsterdam", "time_zone"),
        (datetime(2026, 1, 1, 0, 15, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC), "day", "Asia/Kolkata", "from"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC), "hour", "UTC", "by"),
    ],
)
def test_a_range_that_the_ledger_cannot_show_is_refused_with_its_field(
    low: datetime, high: datetime, unit: Unit | None, zone: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        buckets(low, high, unit, ZoneInfo(zone))
    assert [problem.field for problem in raised.value.problems] == [field]
