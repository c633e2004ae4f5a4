"""The blocking face of the client, for scripts and programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from uuid import UUID

from penstock.client.client import Client
from penstock.client.stream import Event
from penstock.jobs.job import JobSubmission

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """The method of the blocking client that waits for the asynchronous one's."""

    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(method(self.client, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class BlockingClient:
    """A client whose calls block; use it as ``with BlockingClient(url, token=…) as client``. Safe for many threads.

    Its connections live on an event loop in a thread of their own. ``run`` waits for any other coroutine there.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        owner_service: str = "python",
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        self.client = Client(url, token=token, owner_service=owner_service, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; safe to repeat."""
        if self._loop.is_closed():
            return
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def job(self) -> Callable[..., JobSubmission]:
        """Make a submission for ``submit_many``, as ``Client.job``."""
        return self.client.job

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine on the client's loop; an interrupt (Ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    submit = _blocking(Client.submit)
    submit_many = _blocking(Client.submit_many)
    get = _blocking(Client.get)
    wait = _blocking(Client.wait)
    list = _blocking(Client.list)
    stats = _blocking(Client.stats)
    claim = _blocking(Client.claim)
    heartbeat = _blocking(Client.heartbeat)
    complete = _blocking(Client.complete)
    complete_many = _blocking(Client.complete_many)
    fail = _blocking(Client.fail)
    retry = _blocking(Client.retry)
    cancel = _blocking(Client.cancel)
    retry_where = _blocking(Client.retry_where)
    cancel_where = _blocking(Client.cancel_where)

    def events(self, job_id: UUID | str | None = None, *, after: str | None = None) -> Iterator[Event]:
        """As ``Client.events``; each step blocks until the next event."""
        stream: AsyncIterator[Event] = self.client.events(job_id, after=after)
        try:
            while True:
                try:
                    yield self.run(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            self.run(_closed(stream))


async def _next(stream: AsyncIterator[Event]) -> Event:
    return await anext(stream)


async def _closed(stream: AsyncIterator[Event]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
