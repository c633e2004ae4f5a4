"""Waiting calls of several tenants, which take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from penstock.models.host.calls import LiveCall
from penstock.tenants.principal import TenantId


class TenantTurns:
    """Calls in the order in which they are to be sent.

    The tenants take turns, one call each, and the calls of one tenant keep their order. Calls that were put back come
    before all others.
    """

    def __init__(self) -> None:
        self._again: deque[LiveCall] = deque()  # put back
        self._tenants: dict[TenantId, deque[LiveCall]] = {}  # in the order of their turns; none is empty
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[LiveCall]:
        """Iterate over all calls, tenant by tenant."""
        yield from self._again
        for calls in self._tenants.values():
            yield from calls

    def has(self, tenant: TenantId) -> bool:
        """Whether a call of the tenant waits for its turn."""
        return tenant in self._tenants

    def append(self, call: LiveCall) -> None:
        self._count += 1
        calls = self._tenants.get(call.tenant)
        if calls is None:
            self._tenants[call.tenant] = deque((call,))
        else:
            calls.append(call)

    def put_back(self, call: LiveCall) -> None:
        """Make a call the first of all."""
        self._count += 1
        self._again.appendleft(call)

    def first(self) -> LiveCall:
        """Return the next call without removing it. There must be one."""
        return self._again[0] if self._again else next(iter(self._tenants.values()))[0]

    def pop(self) -> LiveCall:
        """Remove and return the next call. There must be one."""
        self._count -= 1
        if self._again:
            return self._again.popleft()
        tenant, calls = next(iter(self._tenants.items()))
        call = calls.popleft()
        if not calls:
            del self._tenants[tenant]
        elif len(self._tenants) > 1:  # to the end of the round
            del self._tenants[tenant]
            self._tenants[tenant] = calls
        return call

    def remove(self, call: LiveCall) -> None:
        """Remove one call; raises ValueError if it does not wait here."""
        if call in self._again:
            self._again.remove(call)
        else:
            calls = self._tenants.get(call.tenant, deque())
            calls.remove(call)
            if not calls:
                del self._tenants[call.tenant]
        self._count -= 1

    def clear(self) -> None:
        self._again.clear()
        self._tenants.clear()
        self._count = 0
