"""Jobs by queue and group commits, as Prometheus metrics."""

from __future__ import annotations

from penstock.jobs.job import Stats
from penstock.telemetry import metrics

_JOBS = metrics.gauge("penstock_jobs", "Jobs by queue and status.", ["task_type", "model_profile", "status"])
_ERRORS = metrics.gauge(
    "penstock_attempt_errors", "Attempts that ended in an error, by queue.", ["task_type", "model_profile", "category"]
)
_OLDEST = metrics.gauge(
    "penstock_oldest_pending_seconds", "How long the oldest due job has waited.", ["task_type", "model_profile"]
)
_BATCHES = metrics.histogram(
    "penstock_group_commit_jobs",
    "How many jobs one statement wrote.",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


def observe_batch(kind: str, size: int) -> None:
    """Measure a group commit."""
    _BATCHES.labels(kind).observe(size)


def measure(stats: Stats) -> None:
    """Set the gauges from the counters."""
    for queue in stats.queues:
        names = (queue.task_type, queue.model_profile)
        for status in ("pending", "running", "completed", "failed", "cancelled"):
            _JOBS.labels(*names, status).set(getattr(queue, status))
        for category, count in queue.errors.items():
            _ERRORS.labels(*names, category).set(count)
        _OLDEST.labels(*names).set(queue.oldest_pending_seconds or 0.0)
