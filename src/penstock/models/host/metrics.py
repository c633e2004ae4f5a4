"""What is counted about models, for /metrics and for people."""

from __future__ import annotations

from contextlib import suppress

from msgspec import Struct

from penstock.telemetry import metrics

_CALLS = metrics.counter("penstock_model_calls", "Calls that ended, by outcome.", ["model", "outcome"])
_SECONDS = metrics.histogram("penstock_model_seconds", "Time of a call in the model.", ["model"])
_BATCHES = metrics.histogram(
    "penstock_model_batch_calls", "Calls that ran together.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
_WAITING = metrics.gauge("penstock_model_waiting", "Calls in the queue.", ["model", "version"])
_IN_FLIGHT = metrics.gauge("penstock_model_in_flight", "Calls in replicas.", ["model", "version"])
_REPLICAS = metrics.gauge("penstock_model_replicas", "Replicas, those that start included.", ["model", "version"])


class Counts(Struct, frozen=True, kw_only=True):
    """Calls of one version since it was registered here."""

    completed: int
    failed: dict[str, int]  # by reason
    batches: int
    mean_batch: float | None  # calls in a batch
    mean_seconds: float | None  # in the model


class ModelMetrics:
    """The counters of one version; those of /metrics go by the model's name."""

    def __init__(self, name: str, version: str) -> None:
        self._name = name
        self._labels = (name, version)
        self._completed_calls = _CALLS.labels(name, "completed")
        self._seconds = _SECONDS.labels(name)
        self._batches = _BATCHES.labels(name)
        self.completed = 0
        self.total_seconds = 0.0
        self.failed: dict[str, int] = {}
        self.batches = 0
        self.batched_calls = 0

    def count_completed(self, seconds: float) -> None:
        self.completed += 1
        self.total_seconds += seconds
        self._completed_calls.inc()
        self._seconds.observe(seconds)

    def count_failed(self, outcome: str) -> None:
        self.failed[outcome] = self.failed.get(outcome, 0) + 1
        _CALLS.labels(self._name, outcome).inc()

    def count_batch(self, size: int) -> None:
        self.batches += 1
        self.batched_calls += size
        self._batches.observe(size)

    def set_load(self, waiting: int, in_flight: int, replicas: int) -> None:
        """Set the gauges, from time to time."""
        _WAITING.labels(*self._labels).set(waiting)
        _IN_FLIGHT.labels(*self._labels).set(in_flight)
        _REPLICAS.labels(*self._labels).set(replicas)

    def forget(self) -> None:
        """Remove the gauges of a version that is gone."""
        for gauge in (_WAITING, _IN_FLIGHT, _REPLICAS):
            with suppress(KeyError):
                gauge.remove(*self._labels)

    def counts(self) -> Counts:
        return Counts(
            completed=self.completed,
            failed=dict(self.failed),
            batches=self.batches,
            mean_batch=self.batched_calls / self.batches if self.batches else None,
            mean_seconds=self.total_seconds / self.completed if self.completed else None,
        )
