"""Jobs by tenant and queue, and group commits, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock.jobs.statistics import QueueState
from penstock.telemetry import metrics
from penstock.telemetry.metrics import MAX_TENANTS, OTHER

_QUEUE: Final = ["tenant", "task_type", "model_profile"]
_MAX_QUEUES: Final = 1000  # that have label values of their own: callers choose the names of queues
_STATES: Final = ("pending", "running", "waiting", "completed", "failed", "cancelled")
_JOBS = metrics.gauge("penstock_jobs", "Jobs by tenant, queue and status.", [*_QUEUE, "status"])
_ERRORS = metrics.gauge(
    "penstock_attempt_errors", "Attempts that ended in an error, by tenant and queue.", [*_QUEUE, "category"]
)
_OLDEST = metrics.gauge("penstock_oldest_pending_seconds", "How long the oldest due job has waited.", _QUEUE)
_BATCHES = metrics.histogram(
    "penstock_group_commit_jobs",
    "How many jobs one statement wrote.",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


def observe_batch(kind: str, size: int) -> None:
    """Measure a group commit."""
    _BATCHES.labels(kind).observe(size)


def measure(queues: Iterable[QueueState]) -> None:
    """Set the gauges from the counters of all tenants.

    The tenants and queues with the most waiting and running jobs have label values of their own; the others together
    are ``other``.
    """
    for gauge in (_JOBS, _ERRORS, _OLDEST):
        gauge.clear()
    busiest = sorted(queues, key=lambda queue: (queue.pending + queue.running, queue.completed), reverse=True)
    tenants: dict[str, str] = {}
    oldest: dict[tuple[str, str, str], float] = {}
    for index, queue in enumerate(busiest):
        tenant = tenants.setdefault(queue.tenant, queue.tenant if len(tenants) < MAX_TENANTS else OTHER)
        own = index < _MAX_QUEUES and tenant != OTHER
        names = (tenant, queue.task_type, queue.model_profile) if own else (tenant, OTHER, OTHER)
        for status in _STATES:
            _JOBS.labels(*names, status).inc(getattr(queue, status))
        for category, count in queue.errors.items():
            _ERRORS.labels(*names, category).inc(count)
        oldest[names] = max(oldest.get(names, 0.0), queue.oldest_pending_seconds)
    for names, seconds in oldest.items():
        _OLDEST.labels(*names).set(seconds)
