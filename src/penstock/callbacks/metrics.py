"""Callbacks by tenant, as Prometheus metrics. They come from the states of endpoints; no delivery is counted."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.callbacks.deliveries import Backlog
from penstock.telemetry import metrics
from penstock.telemetry.metrics import MAX_TENANTS, OTHER

_WAITING = metrics.gauge("penstock_callbacks_waiting", "Deliveries that have not ended, by tenant.", ["tenant"])
_OLDEST = metrics.gauge(
    "penstock_callbacks_oldest_seconds", "Age of the oldest event that waits for delivery.", ["tenant"]
)
_ATTEMPTS = metrics.gauge(
    "penstock_callback_attempts",
    "Attempts of existing endpoints, by tenant and result.",
    ["tenant", "result"],
)
_DEAD = metrics.gauge("penstock_callbacks_dead", "Dead deliveries that were not replayed, by tenant.", ["tenant"])


def measure(backlogs: Iterable[Backlog]) -> None:
    """Set the gauges. The tenants with the most deliveries have label values of their own; the rest share ``other``."""
    for gauge in (_WAITING, _OLDEST, _ATTEMPTS, _DEAD):
        gauge.clear()
    busiest = sorted(backlogs, key=lambda one: (one.waiting, one.delivered), reverse=True)
    oldest: dict[str, float] = {}
    for place, one in enumerate(busiest):
        tenant = one.tenant if place < MAX_TENANTS else OTHER
        _WAITING.labels(tenant).inc(one.waiting)
        _DEAD.labels(tenant).inc(one.dead)
        _ATTEMPTS.labels(tenant, "delivered").inc(one.delivered)
        _ATTEMPTS.labels(tenant, "failed").inc(one.failed)
        oldest[tenant] = max(oldest.get(tenant, 0.0), one.oldest_seconds)
    for tenant, seconds in oldest.items():
        _OLDEST.labels(tenant).set(seconds)
