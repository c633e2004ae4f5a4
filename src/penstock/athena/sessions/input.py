"""The input of a session: which of its data streams are open, and when its last part has come. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock.athena.protocol.data import Status
from penstock.athena.protocol.requests import RequestMessage

_MAX_STREAMS: Final = 64  # of one session


class UnexpectedFrame(Exception):
    """A frame that does not continue its session."""


class InputEnded(UnexpectedFrame):
    """A frame of a session whose last part has come. Clients send such frames when the engine ended the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to pass to the engine for one frame."""

    statuses: Mapping[str, Status] = field(default_factory=dict)  # of each data object to pass, by name
    last: bool  # no part follows


class SessionInput:
    """Follows the frames of one session.

    The status of a frame's header decides where it is stated: 2 and 3 end the input. Without one the input ends when
    every data stream that has begun has ended. A frame after that is refused, and so is data of a stream that has
    ended.
    """

    __slots__ = ("_ended", "_newest", "_open", "_repeats", "begun", "ended")

    def __init__(self) -> None:
        self.begun = self.ended = False
        self._open: set[str] = set()
        self._ended: set[str] = set()
        self._newest: dict[str, int] = {}  # the highest number of a piece of each data stream
        self._repeats = False

    def take(
        self,
        header: Status | None,
        statuses: Mapping[str, Status | None],
        numbers: Mapping[str, int] | None = None,
    ) -> Step:
        """Take a frame: the status of its header, and status and number of each data object, where stated.

        Raises UnexpectedFrame; then nothing has changed.
        """
        if self.ended:
            raise InputEnded("the input of this session has ended")
        if not self.begun:
            _check_first(header, statuses)
        kept = self._without_repeats(statuses, numbers or {})
        self._check(kept)
        found = {name: self._resolved(name, header, status) for name, status in kept.items()}
        if self.begun and not statuses and (header is None or not header.last):
            raise UnexpectedFrame("the frame has no payload, and its status does not end the session")
        for name, status in found.items():
            self._note(name, status)
        for name, number in (numbers or {}).items():
            self._newest[name] = max(number, self._newest.get(name, number))
        self.begun = True
        self.ended = header.last if header is not None else self._all_ended()
        return Step(statuses=found, last=self.ended)

    def resume(self) -> None:
        """Drop from now on what was received before: the client repeats frames after its connection was cut."""
        self._repeats = True

    def _without_repeats(
        self, statuses: Mapping[str, Status | None], numbers: Mapping[str, int]
    ) -> Mapping[str, Status | None]:
        if not self._repeats:
            return statuses
        return {
            name: status
            for name, status in statuses.items()
            if name not in numbers or name not in self._newest or numbers[name] > self._newest[name]
        }

    def _check(self, statuses: Mapping[str, Status | None]) -> None:
        for name in statuses:
            if name in self._ended:
                raise UnexpectedFrame(f"payload.{name[:100]}: this data stream has ended, with status 2 or 3")
        if len(self._open | self._ended | statuses.keys()) > _MAX_STREAMS:
            raise UnexpectedFrame(f"a session may have {_MAX_STREAMS} data streams")

    def _resolved(self, name: str, header: Status | None, status: Status | None) -> Status:
        """Return the status of a data object. Without one it has that of the header, or continues its stream."""
        if status is not None:
            return status
        if header is not None:
            return Status.ONCE if header is Status.END and name not in self._open else header
        return Status.CONTINUE if self.begun else Status.ONCE

    def _note(self, name: str, status: Status) -> None:
        if status.last:
            self._open.discard(name)
            self._ended.add(name)
        else:
            self._open.add(name)

    def _all_ended(self) -> bool:
        return not self._open and bool(self._ended)


def mark(message: RequestMessage, session: SessionInput) -> bool:
    """Mark the data of a message by the rules of its session, leave out what was received before a cut, and return
    whether it is the last message with data. Raises UnexpectedFrame.
    """
    step = session.take(
        message.stated_status,
        {name: None if name in message.unmarked else one.status for name, one in message.payload.items()},
        {name: one.seq for name, one in message.payload.items() if one.seq is not None},
    )
    message.payload = {name: one for name, one in message.payload.items() if name in step.statuses}
    for name, one in message.payload.items():
        one.status = step.statuses[name]
    return step.last


def _check_first(header: Status | None, statuses: Mapping[str, Status | None]) -> None:
    """Refuse a frame that continues a session which is not there, so that it does not begin another one."""
    stated = [status for status in statuses.values() if status is not None]
    continues = header in {Status.CONTINUE, Status.END}
    if header is None and stated:
        continues = all(status in {Status.CONTINUE, Status.END} for status in stated)
    if continues:
        raise UnexpectedFrame("the first frame of a session must have status 0, or 3 if it is the only one")
