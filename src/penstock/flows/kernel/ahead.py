"""What the code of a run does with values that it has just recorded, while they are being stored.

Nothing of it takes effect before they are stored: steps are part of the next turn, and functions that the code wants
to record wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.flows.kernel.records import Mail, MailKind, Status, Turn


class Overtaken(Exception):
    """Other mail has come before the values, so the code has consumed them too early. Begin the run again."""


class Ahead:
    """A turn that consumes values which are not stored yet."""

    __slots__ = ("calls", "mail")

    def __init__(self, mail: list[Mail]) -> None:
        self.mail = mail  # the values, as the mail that they will be
        self.calls: list[Callable[[], None]] = []  # of recorded functions; they wait until the values are stored

    def confirm(self, mail: Sequence[Mail]) -> Sequence[Mail]:
        """Make the calls that have waited, now that the values have come as mail; return the rest of the mail."""
        count = len(self.mail)
        if [(one.id, one.no) for one in mail[:count]] != [(one.id, one.no) for one in self.mail]:
            raise Overtaken
        for call in self.calls:
            call()
        return mail[count:]


def mail_of(turn: Turn, first: int, *, at: float) -> list[Mail]:
    """Return the values that a turn has recorded as the mail that the store makes of them, from the id ``first`` on."""
    return [
        Mail(
            id=mail_id,
            kind=MailKind.ENDED,
            at=at if turn.recorded_at is None else turn.recorded_at,
            no=one.no,
            status=Status.COMPLETED if one.fault is None else Status.FAILED,
            value=one.value,
            fault=one.fault,
        )
        for mail_id, one in enumerate(turn.recorded, first)
    ]
