"""Counts and times of requests, by route.

The counts are kept in plain lists, whose cost per request is a tenth of a metric object's; they become metrics when
they are collected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from penstock.telemetry.metrics import LATENCY_BUCKETS, REGISTRY

_BOUNDS: Final = [*map(str, LATENCY_BUCKETS), "+Inf"]


class Series:
    """Requests of one method on one path."""

    __slots__ = ("buckets", "responses", "seconds")

    def __init__(self) -> None:
        self.responses: dict[int, int] = {}  # by status
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, status: int) -> None:
        """Count a response."""
        self.responses[status] = self.responses.get(status, 0) + 1

    def observe(self, seconds: float) -> None:
        """Count the time that a response took."""
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.seconds += seconds


class _Collector:
    """All series of this process."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], Series] = {}

    def of(self, method: str, path: str) -> Series:
        return self.series.setdefault((method, path), Series())

    def collect(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "penstock_http_seconds", "Time from a request's head to its response.", labels=["method", "path"]
        )
        responses = CounterMetricFamily(
            "penstock_http_responses", "Responses by status.", labels=["method", "path", "status"]
        )
        for labels, series in self.series.items():
            if any(series.buckets):
                counts = zip(_BOUNDS, accumulate(series.buckets), strict=True)
                seconds.add_metric(labels, [*counts], series.seconds)
            for status, count in series.responses.items():
                responses.add_metric((*labels, str(status)), count)
        yield seconds
        yield responses


_collector: Final = _Collector()
REGISTRY.register(_collector)


def series(method: str, path: str) -> Series:
    """Return the series of a method on a path, as its route declares it: a small closed set."""
    return _collector.of(method, path)
