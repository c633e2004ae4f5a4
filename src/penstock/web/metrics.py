"""Counts and times of requests, by route.

The counts are kept in plain lists, whose cost per request is a tenth of a metric object's; they become metrics when
they are collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from penstock.telemetry.metrics import REGISTRY, Times


class Series:
    """Requests of one method on one path."""

    __slots__ = ("responses", "times")

    def __init__(self) -> None:
        self.responses: dict[int, int] = {}  # by status
        self.times = Times()

    def count(self, status: int) -> None:
        """Count a response."""
        self.responses[status] = self.responses.get(status, 0) + 1


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
            if series.times.seconds:
                seconds.add_metric(labels, series.times.buckets(), series.times.seconds)
            for status, count in series.responses.items():
                responses.add_metric((*labels, str(status)), count)
        yield seconds
        yield responses


_collector: Final = _Collector()
REGISTRY.register(_collector)


def series(method: str, path: str) -> Series:
    """Return the series of a method on a path, as its route declares it: a small closed set."""
    return _collector.of(method, path)
