"""The part that a room adds to a worker: its executors, beside the start and the stop of every part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from penstock.part import Part
from penstock.work.executors import Executors, Offer


@dataclass(frozen=True, kw_only=True)
class WorkerPart(Part):
    """One room's part of a worker."""

    executors: Sequence[Offer] = ()  # offered as long as the worker runs
    always: bool = False  # whether every worker has it, whatever its settings are
    follow: Callable[[Executors], Awaitable[None]] | None = None
    """Add and remove executors as they come and go. It runs from the start of all parts until the worker has stopped,
    and is then cancelled."""
