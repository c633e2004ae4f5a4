"""Prometheus metrics of this process: one registry, and the text that ``GET /metrics`` returns.

Rooms create their collectors with these functions at import. Names begin with ``penstock_`` and state base units
(``_seconds``, ``_bytes``, ``_total``). Label values come from small sets, or are bounded in number; they are never ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector

REGISTRY: Final = CollectorRegistry(auto_describe=True)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# From half a millisecond (one database round trip) to the longest long-poll.
LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_BOUNDS: Final = [*map(str, LATENCY_BUCKETS), "+Inf"]

MAX_TENANTS: Final = 100  # that have a label value of their own
OTHER: Final = "other"


def counter(name: str, description: str, labels: Sequence[str] = ()) -> Counter:
    """Create a number that only grows; prometheus_client appends ``_total`` to the name."""
    return Counter(name, description, labels, registry=REGISTRY)


def gauge(name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
    """Create a number that goes up and down."""
    return Gauge(name, description, labels, registry=REGISTRY)


def histogram(
    name: str, description: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = LATENCY_BUCKETS
) -> Histogram:
    """Create a distribution; the default buckets are for seconds."""
    return Histogram(name, description, labels, buckets=buckets, registry=REGISTRY)


class Times:
    """A histogram of seconds in plain lists, for what happens ten thousand times a second.

    Its cost per observation is a tenth of a metric object's. A collector makes it a metric when it is collected.
    """

    __slots__ = ("_counts", "seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a time."""
        self._counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return the upper bound of each bucket and the number of times up to it."""
        return [*zip(_BOUNDS, accumulate(self._counts), strict=True)]


class FewValues:
    """The values of a label that others choose: the first ones stand for themselves, all later ones for ``other``."""

    def __init__(self, limit: int = MAX_TENANTS) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def of(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._limit:
            return OTHER
        self._seen.add(value)
        return value


def exposition() -> bytes:
    """Return all metrics of this process in the Prometheus text format, of type ``CONTENT_TYPE``."""
    return generate_latest(REGISTRY)
