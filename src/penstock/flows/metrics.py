"""Runs that need attention, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.flows.views import FlowCount, Trouble
from penstock.telemetry import metrics
from penstock.telemetry.metrics import OTHER

_HELD = metrics.gauge(
    "penstock_flow_held_runs",
    "Runs that are held because their code cannot continue, by flow and reason.",
    ["flow", "reason"],
)
_STRANDED = metrics.gauge(
    "penstock_flow_stranded_runs", "Runs that have not ended, of versions that no runner has, by flow.", ["flow"]
)
_MAX_FLOWS = 200  # with label values of their own


def measure(trouble: Trouble) -> None:
    """Set the gauges. The flows with the most such runs have label values of their own; the rest share ``other``."""
    _HELD.clear()
    _STRANDED.clear()
    for place, held in enumerate(_most(trouble.held)):
        _HELD.labels(held.flow if place < _MAX_FLOWS else OTHER, held.reason).inc(held.runs)
    for place, stranded in enumerate(_most(trouble.stranded)):
        _STRANDED.labels(stranded.flow if place < _MAX_FLOWS else OTHER).inc(stranded.runs)


def _most(counts: Sequence[FlowCount]) -> Sequence[FlowCount]:
    return sorted(counts, key=lambda count: count.runs, reverse=True)
