"""Hints that mail has arrived for resident runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from penstock.postgres.wakeups import Keys


class Mailboxes:
    """The events of resident runs, set by wake-ups. These may be lost, so parking a run also checks its mail."""

    def __init__(self) -> None:
        self._news: dict[str, asyncio.Event] = {}

    @contextmanager
    def open(self, run_id: UUID) -> Iterator[asyncio.Event]:
        """Yield an event that is set when mail may have arrived for a run."""
        news = self._news[run_id.hex] = asyncio.Event()
        try:
            yield news
        finally:
            if self._news.get(run_id.hex) is news:
                del self._news[run_id.hex]

    def wake(self, keys: Keys) -> None:
        """Set the events of these runs, or of all."""
        for run_id in list(self._news) if keys is None else keys:
            if (news := self._news.get(run_id)) is not None:
                news.set()
