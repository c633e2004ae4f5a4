"""The end of an attempt about which there is nothing to report."""

from __future__ import annotations


class Settled(Exception):
    """Raised by an executor that has ended the lease of its job itself, in a statement of its own."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome  # for the metrics of the worker, such as "completed" or "parked"
