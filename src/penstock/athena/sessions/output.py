"""The output of a session: statuses and numbers of its results. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.athena.protocol.data import DataObject, Status


class OutputEnded(Exception):
    """A chunk of a session whose results have all ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """How one piece of a result is marked."""

    status: Status
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """How one message with results is marked."""

    status: Status  # of its header
    pieces: Mapping[str, Piece]  # of its results, by name

    def applied(self, results: Sequence[DataObject]) -> Sequence[DataObject]:
        """Mark the results of the message, and return them. A number that the engine has stated stays."""
        for one in results:
            piece = self.pieces[one.name]
            one.status = piece.status
            one.seq = piece.seq if one.seq is None else one.seq
        return results


class SessionOutput:
    """Follows the results of one session.

    Exactly one message ends a session that succeeds: its header has status 2, or 3 if it is the only one with results.
    That is the message in which the last of the ``expected`` results ends. Where none are known, or the engine ends
    without that, it is the one for the end of the call.
    """

    __slots__ = ("_counts", "_ended", "_expected", "ended")

    def __init__(self, expected: Iterable[str] = ()) -> None:
        self._expected = frozenset(expected)
        self._counts: dict[str, int] = {}  # pieces of each result so far
        self._ended: set[str] = set()
        self.ended = False

    def chunk(self, statuses: Mapping[str, Status | None]) -> Marks:
        """Take a chunk: the status of each result in it, where the engine stated one. Raises OutputEnded."""
        return self._marks(statuses, last=False)

    def end(self, statuses: Mapping[str, Status | None]) -> Marks | None:
        """Take the end of the call, with the results of its output; None if the message that ends it was sent.

        Raises OutputEnded if there are results nevertheless.
        """
        if self.ended and not statuses:
            return None
        return self._marks(statuses, last=True)

    def _marks(self, statuses: Mapping[str, Status | None], *, last: bool) -> Marks:
        if self.ended:
            raise OutputEnded
        first = not self._counts
        pieces = {name: self._piece(name, status, last=last) for name, status in statuses.items()}
        self._ended.update(name for name, piece in pieces.items() if piece.status.last)
        self.ended = last or (bool(self._expected) and self._expected <= self._ended >= self._counts.keys())
        if self.ended:
            status = Status.ONCE if first and pieces else Status.END
        else:
            status = Status.BEGIN if first else Status.CONTINUE
        return Marks(status=status, pieces=pieces)

    def _piece(self, name: str, status: Status | None, *, last: bool) -> Piece:
        """Mark a piece of a result. The status is the engine's; without one it follows from the piece's place."""
        seq = self._counts[name] = self._counts.get(name, 0) + 1
        if status is None:
            middle = Status.BEGIN if seq == 1 else Status.CONTINUE
            final = Status.ONCE if seq == 1 else Status.END
            status = final if last else middle
        return Piece(status=status, seq=seq)
