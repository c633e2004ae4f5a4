"""Errors because of which the program has not made a turn. Nothing is stored then, and no attempt is counted."""

from __future__ import annotations


class NoTurn(Exception):
    """The program has not made a turn; the run is not resident."""

    @property
    def message(self) -> str:
        return str(self.args[0])


class UnknownFlow(NoTurn):
    """No file has a flow of that name and version."""


class NotResident(NoTurn):
    """The run is not in memory: begin it with its history."""


class HistoryTooLarge(NoTurn):
    """The history with its mail exceeds the size of a frame."""


class FlowsUnavailable(NoTurn):
    """The program cannot be started at the moment."""


class ProgramLost(NoTurn):
    """The program has ended or was killed. A run that was ``on_cpu`` may be the reason; others are not.

    ``stack`` is where the code was, if the program was killed because it did not respond.
    """

    def __init__(self, message: str, *, on_cpu: bool, stack: str = "") -> None:
        super().__init__(message)
        self.on_cpu = on_cpu
        self.stack = stack
