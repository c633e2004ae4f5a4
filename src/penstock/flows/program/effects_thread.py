"""A thread with an ordinary event loop, on which async side effects run."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from penstock.flows.kernel import effects
from penstock.flows.kernel.records import Recorded
from penstock.flows.kernel.resident import Effect


class EffectsThread:
    """Runs the effects of turns. ``done`` holds the outcomes; ``woken`` becomes readable when there are more."""

    def __init__(self) -> None:
        self.done: deque[tuple[int, list[Recorded]]] = deque()  # by request
        self.woken, self._wake = socket.socketpair()
        self.woken.setblocking(False)
        self._wake.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def execute(self, request: int, begun: Sequence[Effect]) -> None:
        """Run the effects of a request's turn at the same time."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="penstock-effects", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, request, list(begun))

    def cancel(self, request: int) -> None:
        """Cancel the effects of a request. Their outcomes are not reported."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, request)

    def taken(self) -> list[tuple[int, list[Recorded]]]:
        """Return the outcomes since the last call."""
        with suppress(BlockingIOError):
            while len(self.woken.recv(1024)) == 1024:
                pass
        found = []
        while self.done:
            found.append(self.done.popleft())
        return found

    def _start(self, request: int, begun: list[Effect]) -> None:
        self._tasks[request] = asyncio.get_running_loop().create_task(self._run(request, begun))

    def _cancel(self, request: int) -> None:
        if (task := self._tasks.get(request)) is not None:
            task.cancel()

    async def _run(self, request: int, begun: list[Effect]) -> None:
        try:
            create = asyncio.get_running_loop().create_task
            outcomes = await asyncio.gather(
                *[create(effects.outcome(no, awaitable), context=context) for no, awaitable, context in begun]
            )
        finally:
            del self._tasks[request]
        self.done.append((request, outcomes))
        with suppress(BlockingIOError):  # it is already readable
            self._wake.send(b".")
