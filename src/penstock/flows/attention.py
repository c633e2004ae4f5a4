"""Whether any run needs an operator's attention, for readiness checks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

from penstock.errors import DatabaseUnavailable
from penstock.flows.views import Trouble

_REMEMBER_SECONDS: Final = 5.0  # because probes are frequent, and the counts take a pass over all open runs

State = Literal["ok", "attention"]


class Attention:
    """Reads, at most every few seconds, whether any run is held or of a version that no runner has."""

    def __init__(self, trouble: Callable[[], Awaitable[Trouble]]) -> None:
        self._trouble = trouble
        self._state: State = "ok"
        self._read_at = 0.0  # monotonic; not before then

    async def state(self) -> State:
        """Return the state as it was last read. While the database is unavailable, it is not read."""
        if time.monotonic() >= self._read_at:
            self._read_at = time.monotonic() + _REMEMBER_SECONDS
            with suppress(DatabaseUnavailable):
                found = await self._trouble()
                self._state = "attention" if found.held or found.stranded else "ok"
        return self._state
