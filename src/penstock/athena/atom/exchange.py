"""A call or session between its first message and its last response. A client polls it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from penstock.athena.protocol.data import DataObject, Scalar, Status
from penstock.athena.protocol.engine_calls import last_status
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.responses import ResponseMessage
from penstock.errors import Overloaded
from penstock.tenants.principal import DEFAULT_TENANT, TenantId

MAX_UNPOLLED_BYTES: Final = 256 * 2**20


class Released(Exception):
    """A call or session was ended while an RPC waited for its results."""


class Exchange(Protocol):
    """A call or session in progress."""

    @property
    def once(self) -> bool:
        """Whether its whole input came with the first message."""

    @property
    def header(self) -> Mapping[str, Scalar]:
        """The fields of the request's header that its responses repeat."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to close."""

    async def take(self, request: RpcRequest, seq: int, *, size: int, seconds: float | None) -> None:
        """Take one of the next messages, of ``size`` bytes. ``seq`` is its number among those of the client; 0: none.

        Wait until the engine has room for its data, for ``seconds`` at most; then the message waits without its RPC.
        Raises InputEnded, TooFarAhead and EngineBusy, after which the session continues; and UnexpectedFrame and
        PenstockErrors, after which it cannot.
        """

    async def poll(self, seconds: float) -> ResponseMessage:
        """Return the next results, or none after ``seconds``. The status of the last ones is 2 or 3.

        Raises Released, or the error that has ended the call.
        """

    async def close(self) -> None:
        """End the call, if it has not ended. It may be repeated."""


class Unpolled:
    """The bytes of results that wait for their clients to poll, of all calls together.

    Each tenant but the default one may have half of them, so that none locks out the others.
    """

    def __init__(self, most: int = MAX_UNPOLLED_BYTES) -> None:
        self.taken = 0
        self._most = most
        self._of_tenants: Counter[TenantId] = Counter()

    def take(self, size: int, tenant: TenantId) -> None:
        """Count a result. Raises Overloaded when too many wait."""
        if self.taken + size > self._most:
            raise Overloaded(f"results of {self.taken} bytes wait to be polled, and may have {self._most}")
        own = self._of_tenants[tenant]
        if own + size > share(self._most, tenant):
            raise Overloaded(f"results of {own} bytes wait for this tenant to poll: it may have half of {self._most}")
        self.taken += size
        self._of_tenants[tenant] = own + size

    def give_back(self, size: int, tenant: TenantId) -> None:
        self.taken -= size
        self._of_tenants[tenant] -= size
        if not self._of_tenants[tenant]:
            del self._of_tenants[tenant]


def share(most: int, tenant: TenantId) -> int:
    """Return how much of a limit one tenant may use: all for the default one, which is that of the operators."""
    return most if tenant == DEFAULT_TENANT else (most + 1) // 2


class OnceExchange:
    """A call whose whole input came with the first message."""

    once = True

    def __init__(
        self,
        call: Coroutine[Any, Any, Sequence[DataObject]],
        unpolled: Unpolled,
        *,
        tenant: TenantId = DEFAULT_TENANT,
        header: Mapping[str, Scalar] | None = None,
    ) -> None:
        self.header = header or {}
        self._tenant = tenant
        self._call = call
        self._unpolled = unpolled
        self._held = 0  # bytes of the result that count as unpolled
        self._waiters = 0  # polls in progress
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_note_failure)

    async def _run(self) -> Sequence[DataObject]:
        results = await self._call
        if not self._waiters:
            size = sum(len(one.data) for one in results)
            self._unpolled.take(size, self._tenant)
            self._held = size
        return results

    @property
    def over(self) -> bool:
        return self._task.done() and not self._task.cancelled() and not self._held

    async def take(self, request: RpcRequest, seq: int, *, size: int, seconds: float | None) -> None:
        """Do nothing: a client has repeated its message."""

    async def poll(self, seconds: float) -> ResponseMessage:
        if not self._task.done():
            self._waiters += 1
            try:
                await asyncio.wait([self._task], timeout=seconds)
            finally:
                self._waiters -= 1
        if not self._task.done():
            return ResponseMessage(status=Status.BEGIN)
        if self._task.cancelled():
            raise Released("the call was ended by its client, or because the server stops")
        results = self._task.result()
        status = last_status(results)
        return ResponseMessage(status=status if status.last else Status.ONCE, payload=results)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._call.close()  # where the task was cancelled before it began
        held, self._held = self._held, 0
        self._unpolled.give_back(held, self._tenant)


def _note_failure(task: asyncio.Task[Any]) -> None:
    """Retrieve the failure of a call, which its client may never poll, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
