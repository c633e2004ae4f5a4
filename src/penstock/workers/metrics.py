"""Counts and times of the attempts of this process's workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from penstock.telemetry.metrics import REGISTRY, Times


class AttemptMetrics:
    """Attempts that ended, by outcome, and their times; a metric once it is created."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._times = Times()
        REGISTRY.register(self)

    def observe(self, outcome: str, seconds: float) -> None:
        """Count an attempt that took this many seconds."""
        self._outcomes[outcome] += 1
        self._times.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        attempts = CounterMetricFamily(
            "penstock_worker_attempts", "Attempts that ended, by outcome.", labels=["outcome"]
        )
        for outcome, count in self._outcomes.items():
            attempts.add_metric([outcome], count)
        seconds = HistogramMetricFamily("penstock_worker_attempt_seconds", "Time from claim to report of one attempt.")
        seconds.add_metric([], self._times.buckets(), self._times.seconds)
        yield attempts
        yield seconds
