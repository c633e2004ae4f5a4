"""What usage offers to a gateway."""

from __future__ import annotations

from penstock.part import Part
from penstock.usage.live import LiveUsage


def part(live: LiveUsage) -> Part:
    """Return the recorder of live calls; it stops after the models, whose calls it accounts."""
    return Part(start=live.start, stop=live.stop)
