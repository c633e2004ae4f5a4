"""Jobs by queue, as Prometheus gauges."""

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


def measure(stats: Stats) -> None:
    """Set the gauges to what the counters say."""
    for queue in stats.queues:
        names = (queue.task_type, queue.model_profile)
        for status in ("pending", "running", "completed", "failed", "cancelled"):
            _JOBS.labels(*names, status).set(getattr(queue, status))
        for category, count in queue.errors.items():
            _ERRORS.labels(*names, category).set(count)
        _OLDEST.labels(*names).set(queue.oldest_pending_seconds or 0.0)
