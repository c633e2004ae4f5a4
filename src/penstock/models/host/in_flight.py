"""The calls in flight at one replica: those that it may have begun, and those that were sent ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from penstock.models.host.calls import LiveCall
from penstock.models.host.sessions import LiveSession
from penstock.models.replica.frames import ProtocolError


class Batch:
    """Calls that were sent together and take one place."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class InFlight:
    """The calls in flight at one replica, in the order of sending.

    ``running`` holds those that the replica may have begun, ``ahead`` groups that were sent early so that it need not
    wait for the next one. A group is one call, or a batch; each takes one place.
    """

    __slots__ = ("_batches", "_places", "ahead", "busy", "calls", "returned", "running", "sessions")

    def __init__(self, places: int) -> None:
        self.running: dict[int, LiveCall] = {}
        self.ahead: deque[Sequence[LiveCall]] = deque()
        self.busy = 0  # groups, those ahead included
        self.calls = 0
        self.sessions = 0  # calls that are sessions; they are not sent ahead, nor in batches
        self.returned = 0  # calls that ended, well or badly
        self._places = places
        self._batches: dict[int, Batch] = {}

    def add(self, group: Sequence[LiveCall], now: float) -> None:
        """Add a group that is being sent, as running while there is a place, otherwise as ahead."""
        if self.busy < self._places:
            for call in group:
                call.started_at = now
                self.running[call.id] = call
        else:
            self.ahead.append(group)
        self.busy += 1
        self.calls += len(group)
        if isinstance(group[0], LiveSession):
            self.sessions += 1
        elif len(group) > 1:
            batch = Batch(len(group))
            for call in group:
                self._batches[call.id] = batch

    def get(self, call_id: int) -> LiveCall | None:
        """Return a call; None if it is not in flight."""
        call = self.running.get(call_id)
        return call if call is not None else self._get_ahead(call_id)

    def find(self, call_id: int) -> LiveCall:
        """Return a call; raises ProtocolError if it is not in flight."""
        call = self.get(call_id)
        if call is None:
            raise ProtocolError(f"there is no call {call_id}")
        return call

    def finish(self, call_id: int, now: float) -> LiveCall:
        """Remove a call that has ended. When its group has ended, the next one that was sent ahead is running. Raises
        ProtocolError when the call is not here."""
        self.returned += 1
        call = self.running.pop(call_id, None)
        if call is None:  # sent ahead; its result arrived before that of the previous group
            call = self.find(call_id)
            self._begin_until(call, now)
            del self.running[call_id]
        self.calls -= 1
        if self.sessions and isinstance(call, LiveSession):
            self.sessions -= 1
        if self._batches:
            batch = self._batches.pop(call_id, None)
            if batch is not None:
                batch.left -= 1
                if batch.left:
                    return call
        self.busy -= 1
        if self.ahead and self.busy - len(self.ahead) < self._places:
            self._begin_next(now)
        return call

    @property
    def waiting(self) -> bool:
        """Whether a call that was sent ahead has a caller."""
        return any(not call.done.done() for group in self.ahead for call in group)

    def clear(self) -> tuple[list[LiveCall], list[LiveCall]]:
        """Remove everything; returns the running calls and those ahead."""
        started, unstarted = list(self.running.values()), [call for group in self.ahead for call in group]
        self.running.clear()
        self.ahead.clear()
        self._batches.clear()
        self.busy = self.calls = self.sessions = 0
        return started, unstarted

    def _begin_next(self, now: float) -> None:
        for call in self.ahead.popleft():
            call.started_at = now
            self.running[call.id] = call

    def _begin_until(self, call: LiveCall, now: float) -> None:
        while call.id not in self.running:
            self._begin_next(now)

    def _get_ahead(self, call_id: int) -> LiveCall | None:
        return next((call for group in self.ahead for call in group if call.id == call_id), None)
