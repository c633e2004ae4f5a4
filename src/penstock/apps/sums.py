"""Records of requests and their sums: pure functions.

Sums hold how many completed requests took a time of each class. Class n (counted from 0) holds times from 2^(n/4) to
2^((n+1)/4) milliseconds, so a quantile is known to within 9 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

_CLASSES: Final = 160  # the last one holds everything above 12 days
_PER_DOUBLING: Final = 4
_MICROSECOND: Final = timedelta(microseconds=1)
ALL_USERS: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What attempts of a request's jobs have used. Times are in microseconds, the cost in 10^-12 of the currency."""

    attempts: int = 0
    calls: int = 0
    failures: int = 0  # calls that failed
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_us: int = 0
    model_us: int = 0
    cost: Decimal = Decimal(0)

    def plus(self, other: Used, times: int = 1) -> Used:
        """Return the sum of this and ``times`` the other."""
        return Used(**{name: getattr(self, name) + times * getattr(other, name) for name in Used.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The record of a request. ``position`` is that of the last event that has changed it."""

    run_id: UUID
    app: str
    user_id: str
    day: date
    status: str  # "open", "completed", "failed", "cancelled"
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_category: str | None
    units: Decimal
    used: Used
    position: int


@dataclass(slots=True, kw_only=True)
class Sums:
    """Sums of records, or changes of such sums."""

    requests: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    wait_us: int = 0
    run_us: int = 0
    units: Decimal = Decimal(0)
    used: Used = field(default_factory=Used)
    times: dict[int, int] = field(default_factory=dict)  # completed requests by class of their time

    def add(self, record: Record, sign: int = 1) -> None:
        """Add a record, or with the sign -1 take it out."""
        self.requests += sign
        self.units += sign * record.units
        self.used = self.used.plus(record.used, sign)
        if record.finished_at is None:
            return
        setattr(self, record.status, getattr(self, record.status) + sign)
        started = record.started_at or record.finished_at
        self.wait_us += sign * _microseconds(started - record.created_at)
        self.run_us += sign * _microseconds(record.finished_at - started)
        if record.status == "completed":
            place = class_of(record.finished_at - record.created_at)
            self.times[place] = self.times.get(place, 0) + sign

    def merge(self, other: Sums) -> None:
        """Add other sums."""
        for name in ("requests", "completed", "failed", "cancelled", "wait_us", "run_us"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.units += other.units
        self.used = self.used.plus(other.used)
        for place, count in other.times.items():
            self.times[place] = self.times.get(place, 0) + count

    @property
    def open(self) -> int:
        """The requests that have not ended."""
        return self.requests - self.completed - self.failed - self.cancelled

    def quantile(self, share: float) -> timedelta | None:
        """Return the time within which this share of the completed requests ended; None if there are none."""
        counts = sorted((place, count) for place, count in self.times.items() if count > 0)
        wanted = share * sum(count for _, count in counts)
        for place, count in counts:
            wanted -= count
            if wanted <= 0:
                return timedelta(milliseconds=2 ** ((place + 0.5) / _PER_DOUBLING))
        return None


Key = tuple[str, str, date]  # app, user, day


def class_of(time: timedelta) -> int:
    """Return the class of a time."""
    milliseconds = max(time / timedelta(milliseconds=1), 1.0)
    return min(int(math.log2(milliseconds) * _PER_DOUBLING), _CLASSES - 1)


def changes(before: Mapping[UUID, Record], after: Iterable[Record]) -> dict[Key, Sums]:
    """Return how sums change when records change, for each user and for all users together."""
    found: dict[Key, Sums] = {}
    for record in after:
        for sign, one in ((-1, before.get(record.run_id)), (1, record)):
            for user in () if one is None else (one.user_id, ALL_USERS):
                assert one is not None  # noqa: S101 - the loop would be empty
                found.setdefault((one.app, user, one.day), Sums()).add(one, sign)
    return found


def updated(before: Record | None, now: Record, used: Used) -> Record:
    """Return the record of a request in its state now; ``used`` is added to what it has used before."""
    if before is None:
        return replace(now, used=used)
    return replace(now, day=before.day, user_id=before.user_id, used=before.used.plus(used))


def _microseconds(time: timedelta) -> int:
    return max(time // _MICROSECOND, 0)
