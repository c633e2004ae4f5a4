"""Run attempts with as few tasks as they need.

An executor that returns without ever waiting leaves its task free for the next attempt, so that a burst of quick jobs
costs two tasks. When executors wait, each attempt has its own task, and all begin in the same iteration of the event
loop. In both cases attempts begin in order, without waiting for one another, and while an attempt runs no other one
shares its task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Final

from penstock.work.attempt import Attempt
from penstock.work.executor import Executor

_SLICE_SECONDS: Final = 0.005  # attempts of one task, after which it yields to the event loop


class Runners:
    """Executes attempts; ``ended`` is called with each once its executor has ended."""

    def __init__(self, executor: Executor, ended: Callable[[Attempt], None]) -> None:
        self._executor = executor
        self._ended = ended
        self._queue: deque[Attempt] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._coming = 0  # tasks that were created and have not begun
        self._waiting = 0  # tasks whose executor has not returned
        self._quick = False  # executors have recently returned without waiting

    def begin(self, attempts: Iterable[Attempt]) -> None:
        """Execute these attempts, from the next iteration of the event loop."""
        self._queue.extend(attempts)
        self._add_tasks()

    def clear(self) -> None:
        """Drop the queued attempts."""
        self._queue.clear()

    def _add_tasks(self) -> None:
        """Make sure that there is a task for each queued attempt, or one for all of them while executors are quick."""
        wanted = min(len(self._queue), 1) if self._quick else len(self._queue)
        while self._coming < wanted:
            self._coming += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        self._coming -= 1
        if self._waiting:
            self._quick = False
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        variables = copy_context()
        slice_ends = loop.time() + _SLICE_SECONDS
        while self._queue:
            attempt = self._queue.popleft()
            self._add_tasks()
            coming = self._coming
            attempt.task = task
            self._waiting += 1
            try:
                await attempt.execute(self._executor)
            except asyncio.CancelledError:  # the event loop is being torn down; the engine hands back what it holds
                raise
            except BaseException:
                self._ended(attempt)
                raise
            finally:
                self._waiting -= 1
            attempt.task = None
            if coming:
                self._quick = self._coming == coming
            self._ended(attempt)
            if attempt.was_interrupted or copy_context() != variables:
                self._add_tasks()
                return  # the next attempt gets a new task: this one was cancelled or has changed context variables
            if loop.time() >= slice_ends:
                await asyncio.sleep(0)
                slice_ends = loop.time() + _SLICE_SECONDS
