"""A slice: the part of one quota from which a process admits requests without querying the database."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from penstock.quotas.quota import CALLS_AT_ONCE
from penstock.quotas.rules import Rule

VALID_SECONDS: Final = 15.0  # after the last renewal that succeeded; the database lets a slice expire after 30 s
RENEW_SECONDS: Final = 5.0
BUDGET_SECONDS: Final = 1.0  # between polls of how much of a budget is used
_PLENTY: Final = 2**62
IDLE_SECONDS: Final = 10.0  # without a request, after which the rest is given back


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A process's report about a slice, and the size that it requests.

    The first two numbers are totals over the slice's life.
    """

    used: int
    acknowledged: int  # the part of ``used`` that the database has confirmed
    reserved: int  # taken by requests in progress
    floor: int  # the amount that it must keep
    least: int  # the amount that it needs, including for waiting requests
    best: int  # the amount that it would like to hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The grant of the database, and the state of the whole quota."""

    window_start: datetime
    ends_in: float | None  # seconds until the window ends; None: it never ends
    granted: int
    settled: int  # used by all processes, and booked
    most: int
    others: int  # held by other slices
    spare: int  # the amount that this slice may hold beyond its needs
    resets_in: float | None


class Slice:
    """One process's part of one quota, for one subject and window.

    ``granted``, ``used`` and ``acknowledged`` are totals over the slice's life; ``reserved`` is taken by requests in
    progress. It belongs to one event loop, and is changed without awaiting.
    """

    __slots__ = (
        "_blocked", "_budget", "_pace", "_peak", "_recently", "_taken_at", "_valid_until", "acknowledged", "ends_at",
        "granted", "id", "reserved", "rule", "short", "standing", "subject", "synced_at", "used", "window_start",
    )  # fmt: skip

    def __init__(self, rule: Rule, subject: str) -> None:
        self.rule = rule
        self._budget = rule.budget
        self.subject = subject
        self.id: UUID = uuid4()
        self.window_start: datetime | None = None  # until the database has chosen it
        self.granted = self.used = self.acknowledged = self.reserved = 0
        self.standing: Grant | None = None
        self.synced_at = 0.0
        self.short = False  # whether the database granted less than was needed
        self._blocked = False  # while the database takes back the amount that is not reserved
        self._valid_until = 0.0
        self.ends_at = math.inf  # of the window, monotonic; afterwards the slice only reports
        self._taken_at = time.monotonic()
        self._recently = self._peak = self._pace = 0

    def available(self, now: float) -> int:
        """Return how much requests may take now: nothing unless the slice was renewed recently."""
        if self._blocked or now >= self._valid_until:
            return 0
        if self._budget:
            return 0 if self.short else _PLENTY
        return self.granted - self.used - self.reserved

    @property
    def remaining(self) -> int:
        """The part of the quota that is left, as far as this process knows; for responses."""
        standing = self.standing
        if standing is None:
            return 0
        booked_since = self.used - self.acknowledged
        return max(0, standing.most - standing.settled - standing.others - booked_since - self.reserved)

    def resets_in(self, now: float) -> float | None:
        """Seconds until some or all of the quota is free again, or None if that depends on the end of requests."""
        if self.standing is None or self.standing.resets_in is None:
            return None
        return max(0.0, self.standing.resets_in - (now - self.synced_at))

    def excessive(self, now: float) -> bool:
        """Whether it holds more than its share, which others may be waiting for.

        A job that was created is among those that the database counts as pending, and a file among those that it sums
        up, so what they took from the slice is no longer needed.
        """
        if self.rule.per or self.standing is None:
            return False
        return self.available(now) + self.used - self.acknowledged > self.standing.spare

    @property
    def _returns(self) -> bool:
        """Whether the amount that a request takes is free again when it ends."""
        return self.rule.measure == CALLS_AT_ONCE

    def take(self, amount: int, now: float) -> None:
        """Reserve an available amount. Requests take nothing from a budget."""
        if self._budget:
            self._taken_at = now
            return
        self.reserved += amount
        self._recently += amount
        self._peak = max(self._peak, self.reserved)
        self._taken_at = now

    def settle(self, amount: int) -> None:
        """Count a reserved amount as used; if the quota limits an amount at a time, it is free again."""
        self.release(amount)
        if not self._returns and not self._budget:
            self.used += amount

    def replace(self, reserved: int, amount: int) -> None:
        """Count what a request has used, which may differ from what it had reserved."""
        self.reserved -= reserved
        self.used += amount

    def release(self, amount: int) -> None:
        """Give back a reserved amount."""
        if not self._budget:
            self.reserved -= amount

    def due(self, now: float) -> bool:
        """Return whether the slice has anything to report, renew or give back."""
        if self.used != self.acknowledged or now >= self.ends_at or self.excessive(now):
            return True
        idle = now - self._taken_at >= IDLE_SECONDS
        if self._budget:
            return not idle and now - self.synced_at >= BUDGET_SECONDS
        return now - self.synced_at >= RENEW_SECONDS or (idle and self.available(now) > 0)

    def over(self, now: float) -> bool:
        """Return whether the slice holds nothing and has nothing left to report, so that it can be dropped."""
        empty = not self.reserved and self.granted == self.used == self.acknowledged
        return empty and (now >= self.ends_at or now - self._taken_at >= IDLE_SECONDS)

    def retire(self) -> None:
        """Treat the slice as idle, because the process stops."""
        self._taken_at -= IDLE_SECONDS

    def tick(self) -> None:
        """Note how much was taken in the last second: about as much is requested for the next one."""
        taken = max(0, self._peak - self.reserved) if self._returns else self._recently
        self._pace = max(taken, self._pace // 2)
        self._recently, self._peak = 0, self.reserved

    def report(self, waiting: int) -> Report:
        """Return the next report. ``waiting`` is the amount that requests wait for because the slice has too little.

        If that takes back what is available, nothing is available until the database has responded.
        """
        now = time.monotonic()
        if self._budget:
            return Report(used=0, acknowledged=0, reserved=0, floor=0, least=0, best=0)
        least = self.reserved + waiting
        idle = not waiting and (now >= self.ends_at or now - self._taken_at >= IDLE_SECONDS)
        self._blocked = self._blocked or idle or (not waiting and self.excessive(now))
        keeps = not self._blocked and now < self._valid_until
        wanted = 0 if idle else max(self._pace, 0 if self._returns else self._recently)
        return Report(
            used=self.used,
            acknowledged=self.acknowledged,
            reserved=self.reserved,
            floor=self.granted - self.used if keeps else self.reserved,
            least=least,
            best=least + wanted,
        )

    def apply(self, report: Report, grant: Grant, *, sent_at: float) -> None:
        """Apply the response to a report."""
        now = time.monotonic()
        self.window_start = grant.window_start
        self.granted = grant.granted
        self.acknowledged = report.used
        self.standing = grant
        self.short = grant.settled >= grant.most if self._budget else grant.granted - report.used < report.least
        self.synced_at = sent_at
        self._valid_until = sent_at + VALID_SECONDS
        self.ends_at = math.inf if grant.ends_in is None else now + max(0.0, grant.ends_in)
        self._blocked = False
