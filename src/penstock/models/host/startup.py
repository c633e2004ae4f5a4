"""The control channel of one replica: its schema, whether it is loaded, and its responses to pings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from penstock.failures import CallFailed, Category
from penstock.models.host import received
from penstock.models.host.logbook import Logbook
from penstock.models.manifest import Model
from penstock.models.replica import frames
from penstock.models.replica.runtime import Schema


class Startup:
    """Handles the frames on the control channel of one replica. Frames that do not belong there raise ProtocolError.

    ``described`` is resolved with the model's schema, and ``ready`` when the model is loaded; both raise CallFailed if
    it cannot be.
    """

    def __init__(self, name: str, model: Model, logbook: Logbook) -> None:
        self.described: asyncio.Future[Schema] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ponged_at = 0.0  # monotonic
        self._name = name
        self._model = model
        self._logbook = logbook

    def receive(self, arrived: Sequence[frames.Frame]) -> None:
        for frame in arrived:
            match frame.kind:
                case frames.HELLO:
                    if not self.described.done():
                        self.described.set_result(received.schema(frame.body))
                case frames.READY:
                    if not self.ready.done():
                        self.ready.set_result(None)
                case frames.BROKEN:
                    self._cannot_start(received.failure(frame))
                case frames.PONG:
                    self.ponged_at = time.monotonic()
                case _:
                    raise frames.ProtocolError(f"kind {frame.kind} on the control channel")

    def fail(self, error: CallFailed) -> None:
        """Fail what has not been reported yet."""
        for future in (self.described, self.ready):
            if not future.done():
                future.set_exception(error)
                future.exception()  # there may be no waiter

    def _cannot_start(self, failure: frames.FailureHeader) -> None:
        message = self._logbook.masked(failure.message)
        self._logbook.add("error", f"cannot start: {message}", version=self._model.version, replica=self._name)
        self.fail(CallFailed(Category.UNAVAILABLE, message))
