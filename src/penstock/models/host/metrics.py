"""Counters of models, for /metrics and for the API of models.

The counts are kept in plain lists, whose cost per call is a tenth of a metric object's; they become metrics when they
are collected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Final

from msgspec import Struct
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from penstock.telemetry import metrics
from penstock.telemetry.metrics import LATENCY_BUCKETS, REGISTRY

_BOUNDS: Final = [*map(str, LATENCY_BUCKETS), "+Inf"]

_BATCHES = metrics.histogram(
    "penstock_model_batch_calls",
    "Calls that ran together.",
    ["owner", "model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
_WAITING = metrics.gauge("penstock_model_waiting", "Calls in the queue.", ["owner", "model", "version"])
_IN_FLIGHT = metrics.gauge("penstock_model_in_flight", "Calls in replicas.", ["owner", "model", "version"])
_SESSIONS = metrics.gauge("penstock_model_sessions", "Sessions in replicas.", ["owner", "model", "version"])
_REPLICAS = metrics.gauge(
    "penstock_model_replicas", "Replicas, including those that are starting.", ["owner", "model", "version"]
)


class Counts(Struct, frozen=True, kw_only=True):
    """Calls of one version since it was registered here."""

    completed: int  # without sessions
    failed: dict[str, int]  # by reason, with sessions
    sessions: int  # that ended, in any way
    batches: int
    mean_batch: float | None  # calls in a batch
    mean_seconds: float | None  # in the model


class _Calls:
    """Calls of all versions of one model that ended in this process."""

    __slots__ = ("buckets", "outcomes", "part_bytes", "parts", "seconds", "session_seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0
        self.session_seconds = 0.0
        self.parts = self.part_bytes = 0


class _Collector:
    """The calls of all models of this process, by owner and name: tenants may use the same names."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], _Calls] = {}

    def collect(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "penstock_model_calls", "Calls and sessions that ended, by outcome.", labels=["owner", "model", "outcome"]
        )
        seconds = HistogramMetricFamily(
            "penstock_model_seconds", "Time of a call in the model, without sessions.", labels=["owner", "model"]
        )
        session_seconds = _counter("penstock_model_session_seconds", "Time of ended sessions with their replicas.")
        parts = _counter("penstock_model_parts", "Parts of ended sessions.")
        part_bytes = _counter("penstock_model_part_bytes", "Bytes of the parts of ended sessions.")
        for labels, calls in self.calls.items():
            for outcome, count in calls.outcomes.items():
                outcomes.add_metric((*labels, outcome), count)
            counts = zip(_BOUNDS, accumulate(calls.buckets), strict=True)
            seconds.add_metric(labels, [*counts], calls.seconds)
            session_seconds.add_metric(labels, calls.session_seconds)
            parts.add_metric(labels, calls.parts)
            part_bytes.add_metric(labels, calls.part_bytes)
        yield from (outcomes, seconds, session_seconds, parts, part_bytes)


def _counter(name: str, description: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, description, labels=["owner", "model"])


_collector: Final = _Collector()
REGISTRY.register(_collector)


class ModelMetrics:
    """The counters of one version; those of /metrics are per model. ``owner`` is a tenant; None: the operator."""

    def __init__(self, owner: str | None, name: str, version: str) -> None:
        model = ("" if owner is None else owner, name)
        self._labels = (*model, version)
        self._calls = _collector.calls.setdefault(model, _Calls())
        self._batches = _BATCHES.labels(*model)
        self.completed = 0
        self.total_seconds = 0.0
        self.failed: dict[str, int] = {}
        self.batches = 0
        self.batched_calls = 0
        self.sessions = 0

    def count_completed(self, seconds: float) -> None:
        self.completed += 1
        self.total_seconds += seconds
        calls = self._calls
        calls.outcomes["completed"] = calls.outcomes.get("completed", 0) + 1
        calls.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        calls.seconds += seconds

    def count_failed(self, outcome: str) -> None:
        self.failed[outcome] = self.failed.get(outcome, 0) + 1
        self._calls.outcomes[outcome] = self._calls.outcomes.get(outcome, 0) + 1

    def count_session(self, *, seconds: float, parts: int, part_bytes: int, completed: bool) -> None:
        """Count a session that ended; failures are counted by ``count_failed`` as well."""
        self.sessions += 1
        calls = self._calls
        if completed:
            calls.outcomes["completed"] = calls.outcomes.get("completed", 0) + 1
        calls.session_seconds += seconds
        calls.parts += parts
        calls.part_bytes += part_bytes

    def count_batch(self, size: int) -> None:
        self.batches += 1
        self.batched_calls += size
        self._batches.observe(size)

    def set_load(self, *, waiting: int, in_flight: int, sessions: int, replicas: int) -> None:
        """Set the gauges, from time to time."""
        _SESSIONS.labels(*self._labels).set(sessions)
        _WAITING.labels(*self._labels).set(waiting)
        _IN_FLIGHT.labels(*self._labels).set(in_flight)
        _REPLICAS.labels(*self._labels).set(replicas)

    def forget(self) -> None:
        """Remove the gauges of a version that is gone."""
        for gauge in (_WAITING, _IN_FLIGHT, _SESSIONS, _REPLICAS):
            with suppress(KeyError):
                gauge.remove(*self._labels)

    def counts(self) -> Counts:
        return Counts(
            completed=self.completed,
            failed=dict(self.failed),
            sessions=self.sessions,
            batches=self.batches,
            mean_batch=self.batched_calls / self.batches if self.batches else None,
            mean_seconds=self.total_seconds / self.completed if self.completed else None,
        )
