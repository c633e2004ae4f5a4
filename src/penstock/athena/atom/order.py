"""The order of a session's messages, which may overtake one another on their way. Pure rules."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_AHEAD: Final = 64  # messages that wait for an earlier one
MAX_AHEAD_BYTES: Final = 8 * 2**20


class TooFarAhead(Exception):
    """Too many messages wait for one that has not come."""


class Order(Generic[T]):
    """Hands out a session's messages in the order of their numbers.

    The first message has any number. A message that comes again is dropped: clients repeat a call whose response they
    did not get.
    """

    def __init__(self, first: int) -> None:
        self._next = first + 1
        self._waiting: dict[int, tuple[T, int]] = {}
        self._bytes = 0

    def put(self, number: int, message: T, size: int) -> list[T]:
        """Take a message; return those that are next now. Raises TooFarAhead, which changes nothing."""
        if number < self._next or number in self._waiting:
            return []
        if number > self._next and (len(self._waiting) >= MAX_AHEAD or self._bytes + size > MAX_AHEAD_BYTES):
            raise TooFarAhead(
                f"message {self._next} of this session has not come, and {len(self._waiting)} later ones wait for it"
            )
        self._waiting[number] = (message, size)
        self._bytes += size
        found: list[T] = []
        while self._next in self._waiting:
            one, its_size = self._waiting.pop(self._next)
            self._bytes -= its_size
            self._next += 1
            found.append(one)
        return found

    @property
    def next(self) -> int:
        """The number of the message that comes next."""
        return self._next
