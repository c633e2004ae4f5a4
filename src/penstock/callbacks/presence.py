"""Shows to other dispatchers that this one lives.

A dispatcher holds an advisory lock in a connection of its own, and its leases state the number of that lock. PostgreSQL
frees the lock as soon as the process is gone, so others need not wait until its leases expire. A connection that is
lost in another way takes the lock along; the dispatcher then gives up its leases, as others may have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg

from penstock.callbacks import deliveries
from penstock.postgres.pool import UNREACHABLE, Database
from penstock.telemetry import logs

log = logs.get(__name__)


class Presence:
    """The lock of one dispatcher. ``lost`` is called on the event loop when it is gone without ``close``."""

    def __init__(self, database: Database, lost: Callable[[], None]) -> None:
        self._database = database
        self._lost = lost
        self._connection: asyncpg.Connection[Any] | None = None
        self._number = 0

    async def number(self) -> int:
        """Return the number of the lock, which is taken if it is not held. Raises DatabaseUnavailable."""
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                self._number = await deliveries.appear(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            connection.add_termination_listener(self._ended)
        return self._number

    async def close(self) -> None:
        """Free the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._ended)
            with suppress(*UNREACHABLE):
                async with asyncio.timeout(1):
                    await connection.close()

    def _ended(self, connection: object) -> None:
        if self._connection is connection:
            self._connection = None
            log.warning("callback_presence_lost", number=self._number)
            self._lost()
