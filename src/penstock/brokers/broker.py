"""The base of connections to brokers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final, final

from penstock.telemetry import metrics

_CONNECTED: Final = metrics.gauge(
    "penstock_broker_connected", "Whether this process is connected to a broker (1) or not (0).", ["broker"]
)


class BrokerUnavailable(Exception):  # never reaches a caller: work continues without the broker
    """A broker cannot be reached at the moment."""


class Broker(ABC):
    """A connection that is opened in the background, and again whenever it is lost.

    ``connected`` is set while it is open.
    """

    name: str

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        _CONNECTED.labels(self.name).set(0)

    async def start(self) -> None:
        """Begin to connect; the broker need not be available."""
        if self._task is None:
            self._task = asyncio.create_task(self._stay_connected())

    async def stop(self) -> None:
        """Close the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @abstractmethod
    async def _stay_connected(self) -> None:
        """Connect, and reconnect after each loss, until cancelled."""

    @final
    def _is_connected(self, connected: bool) -> None:
        if connected:
            self.connected.set()
        else:
            self.connected.clear()
        _CONNECTED.labels(self.name).set(connected)


def reason_of(error: BaseException) -> str:
    """Return why a broker cannot be used, in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
