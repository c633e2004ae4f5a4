"""The deliveries of one endpoint that were read but not sent yet, in the order of each subject's events. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from penstock.callbacks.message import Delivery

MAX_PARKED: Final = 10_000
Prepared = tuple[Delivery, bytes]  # a delivery and the body of its message


class Chains:
    """A chain for each subject: its first delivery may be in flight, and the others wait until that has ended.

    A subject is parked when a delivery of it failed. Its later ones then wait in the database, as long as this object
    exists, because they may have been read before the failure was recorded.
    """

    def __init__(self) -> None:
        self._chains: dict[str, deque[Prepared]] = {}
        self._ready: deque[str] = deque()  # the subjects whose first delivery is not in flight
        self._parked: set[str] = set()
        self._size = 0

    def __bool__(self) -> bool:
        """Whether any deliveries are held, in flight or not."""
        return bool(self._chains)

    @property
    def waiting(self) -> int:
        """The number of deliveries, those in flight included."""
        return sum(map(len, self._chains.values()))

    @property
    def size(self) -> int:
        """The size of the bodies of these deliveries, in bytes."""
        return self._size

    @property
    def ready(self) -> bool:
        """Whether a delivery can be sent."""
        return bool(self._ready)

    @property
    def full(self) -> bool:
        """Whether too many subjects are parked to read more deliveries."""
        return len(self._parked) > MAX_PARKED

    def parked(self, delivery: Delivery) -> bool:
        """Whether a delivery of its subject failed."""
        return delivery.subject in self._parked

    def append(self, delivery: Delivery, body: bytes) -> None:
        """Append a delivery to the chain of its subject."""
        self._size += len(body)
        chain = self._chains.get(delivery.subject)
        if chain is None:
            self._chains[delivery.subject] = deque([(delivery, body)])
            self._ready.append(delivery.subject)
        else:
            chain.append((delivery, body))

    def take(self) -> Prepared:
        """Return the first delivery of a chain that can be sent; ``end`` it later."""
        return self._chains[self._ready.popleft()][0]

    def end(self, delivery: Delivery, *, failed: bool) -> list[Delivery]:
        """Remove a delivery that was taken. If it failed, return the later ones of its subject, which wait in the
        database."""
        subject = delivery.subject
        chain = self._chains[subject]
        self._size -= len(chain.popleft()[1])
        behind: list[Delivery] = []
        if failed:
            self._parked.add(subject)
            behind = [one for one, _ in chain]
            self._size -= sum(len(body) for _, body in chain)
            chain.clear()
        if chain:
            self._ready.append(subject)
        else:
            del self._chains[subject]
        return behind
