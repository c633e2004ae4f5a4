"""A call or session between its first message and its last response. A client polls it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.engine_calls import last_status
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.responses import ResponseMessage


class Exchange(Protocol):
    """A call or session in progress."""

    @property
    def once(self) -> bool:
        """Whether its whole input came with the first message."""

    async def take(self, request: RpcRequest, seq: int, size: int) -> None:
        """Take one of the next messages, of ``size`` bytes. ``seq`` is its number among those of the client; 0: none.

        Waits until the engine has room for its data. Raises UnexpectedFrame, TooFarAhead and PenstockErrors.
        """

    async def poll(self, seconds: float) -> ResponseMessage:
        """Return the next results, or none after ``seconds``. The status of the last ones is 2 or 3.

        Raises the error that has ended the call.
        """

    async def close(self) -> None:
        """End the call, if it has not ended. It may be repeated."""


class OnceExchange:
    """A call whose whole input came with the first message."""

    once = True

    def __init__(self, call: Coroutine[Any, Any, Sequence[DataObject]]) -> None:
        self._task = asyncio.get_running_loop().create_task(call)

    async def take(self, request: RpcRequest, seq: int, size: int) -> None:
        """Do nothing: a client has repeated its message."""

    async def poll(self, seconds: float) -> ResponseMessage:
        if not self._task.done():
            await asyncio.wait([self._task], timeout=seconds)
        if not self._task.done():
            return ResponseMessage(status=Status.BEGIN)
        results = self._task.result()
        status = last_status(results)
        return ResponseMessage(status=status if status.last else Status.ONCE, payload=results)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
