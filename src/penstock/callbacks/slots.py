"""Slots for requests in progress, shared by the endpoints of a dispatcher."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from penstock.tenants.principal import TenantId


@dataclass(eq=False, slots=True)
class User:
    """An endpoint that uses slots. ``ready`` is called when it may try again to take one."""

    tenant: TenantId
    endpoint_id: UUID
    ready: Callable[[], None]
    taken: int = field(default=0)


class Slots:
    """Gives a tenant, and each of its endpoints, at most as many slots as are still free.

    So one tenant with many slow endpoints takes half of the slots at most, two such tenants two thirds, and there are
    always some for others. Endpoints that wait for slots take turns.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._taken = 0
        self._by_tenant: Counter[TenantId] = Counter()
        self._waiting: deque[User] = deque()

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, user: User) -> bool:
        """Take a slot; if it returns False, the user is called when it may try again."""
        free = self.capacity - self._taken
        if self._by_tenant[user.tenant] < free and user.taken < free:
            self._taken += 1
            self._by_tenant[user.tenant] += 1
            user.taken += 1
            return True
        if user not in self._waiting:
            self._waiting.append(user)
        return False

    def give(self, user: User) -> None:
        """Give a slot back."""
        self._taken -= 1
        self._by_tenant[user.tenant] -= 1
        if not self._by_tenant[user.tenant]:
            del self._by_tenant[user.tenant]
        user.taken -= 1
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            before = waiting.taken
            waiting.ready()
            if waiting.taken > before:
                return

    def leave(self, user: User) -> None:
        """Forget that a user waits."""
        if user in self._waiting:
            self._waiting.remove(user)
