"""Counters of jobs, in total, by queue and by owner: the wire types."""

from __future__ import annotations

from msgspec import Struct

from penstock.jobs.usage import ProviderCounts, UsageCounts


class Counts(Struct, frozen=True, kw_only=True):
    """Counters of jobs. ``pending``, ``running`` and ``waiting`` are current; all others count from the beginning."""

    pending: int = 0
    running: int = 0
    waiting: int = 0  # parked runs of flows
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    errors: dict[str, int] = {}  # attempts that ended in an error, by category, including those that were retried
    usage: UsageCounts = UsageCounts()


class OwnerCounts(Counts, frozen=True, kw_only=True):
    """One owner's share of a queue's counters."""

    owner_service: str


class QueueCounts(Counts, frozen=True, kw_only=True):
    """Counters of one queue, split by owner."""

    task_type: str
    model_profile: str
    oldest_pending_seconds: float | None = None  # how long the oldest due job has waited; None: none waits
    owners: list[OwnerCounts] = []


class Stats(Struct, frozen=True, kw_only=True):
    """Counters: totals, by queue and owner, and by provider."""

    totals: Counts
    oldest_pending_seconds: float | None
    queues: list[QueueCounts]
    providers: list[ProviderCounts] = []
