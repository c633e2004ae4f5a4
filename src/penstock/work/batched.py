"""An executor that runs jobs together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from penstock.jobs.job import ClaimedJob
from penstock.work.context import JobContext

BatchHandler: TypeAlias = Callable[[Sequence[ClaimedJob]], Awaitable[Sequence[object]]]


class Batched:
    """An executor that runs jobs together: ``handler`` gets up to ``size`` jobs and answers as many results, in order.

    While one batch runs the next forms, so nobody waits for a timer. A result that is an ExecutionError fails its own
    job only; an exception fails the whole batch.
    """

    def __init__(self, handler: BatchHandler, *, size: int) -> None:
        self._handler = handler
        self._size = size
        self._waiting: deque[tuple[ClaimedJob, asyncio.Future[object]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, job: ClaimedJob, _context: JobContext, /) -> object:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                wanted = [(job, future) for job, future in taken if not future.done()]
                if wanted:
                    await self._run_batch([job for job, _ in wanted], [future for _, future in wanted])
        finally:
            self._runner = None

    async def _run_batch(self, jobs: Sequence[ClaimedJob], futures: Sequence[asyncio.Future[object]]) -> None:
        try:
            results = await self._handler(jobs)
            if len(results) != len(jobs):
                raise ValueError(f"the handler answered {len(results)} results for {len(jobs)} jobs")
        except Exception as error:  # noqa: BLE001 - the handler is foreign code; its error belongs to these jobs
            results = [error] * len(jobs)
        for future, result in zip(futures, results, strict=True):
            if future.done():  # its job was interrupted meanwhile
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
