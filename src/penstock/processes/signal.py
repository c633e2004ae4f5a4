"""A condition that becomes true once, with callbacks: for example that a client has left, or a process is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Signal:
    """A flag that is set once and stays set. It belongs to one event loop and is not thread-safe."""

    __slots__ = ("_callbacks", "_set")

    def __init__(self) -> None:
        self._set = False
        self._callbacks: dict[Callable[[], object], None] = {}  # in order; thousands of streams may share a signal

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Run the registered callbacks, once."""
        if self._set:
            return
        self._set = True
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks:
            callback()

    def add(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when the signal is set, or soon if it already is."""
        if self._set:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._callbacks[callback] = None

    def remove(self, callback: Callable[[], object]) -> None:
        """Remove a callback, if it is still registered."""
        self._callbacks.pop(callback, None)

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Have ``callback`` called if the signal is set while the block runs."""
        self.add(callback)
        try:
            yield
        finally:
            self.remove(callback)

    async def wait(self) -> None:
        """Return when the signal is set."""
        if self._set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        with self.calling(wake):
            await waiter
