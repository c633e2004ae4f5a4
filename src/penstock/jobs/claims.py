"""Who waits for work in this process, and who is woken when some arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.jobs.job import ClaimRequest
from penstock.postgres.wakeups import Notice


class _Waiter:
    __slots__ = ("_profiles", "_tasks", "news")

    def __init__(self, request: ClaimRequest) -> None:
        self._tasks = frozenset(request.task_types)
        self._profiles = frozenset(request.model_profiles)
        self.news = asyncio.Event()

    def wants(self, task_type: str, model_profile: str) -> bool:
        return (not self._tasks or task_type in self._tasks) and (not self._profiles or model_profile in self._profiles)


class ClaimQueue:
    """Waiting claims in the order they came. As many are woken as jobs are announced, not the whole crowd."""

    def __init__(self) -> None:
        self._waiters: dict[_Waiter, None] = {}

    @contextmanager
    def waiting(self, request: ClaimRequest) -> Iterator[asyncio.Event]:
        """Stand in line; the event is set when work of the wanted kind was announced."""
        waiter = _Waiter(request)
        self._waiters[waiter] = None
        try:
            yield waiter.news
        finally:
            del self._waiters[waiter]

    def notice(self, notice: Notice) -> None:
        """Wake whom the notice concerns."""
        if notice.everything:
            for waiter in self._waiters:
                waiter.news.set()
            return
        for task_type, model_profile, count in notice.ready:
            left = count
            for waiter in self._waiters:
                if left <= 0:
                    break
                if not waiter.news.is_set() and waiter.wants(task_type, model_profile):
                    waiter.news.set()
                    left -= 1
