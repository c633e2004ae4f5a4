"""An executor that runs jobs together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from penstock.batching import Batching
from penstock.jobs.work import ClaimedJob
from penstock.work.context import JobContext

BatchHandler: TypeAlias = Callable[[Sequence[ClaimedJob]], Awaitable[Sequence[object]]]


class Batched:
    """An executor that runs jobs together: ``handler`` gets up to ``size`` jobs and returns as many results, in order.

    While one batch runs, the next one collects jobs, without a timer. A result that is an ExecutionError fails only its
    own job; an exception fails the whole batch. Jobs that were interrupted before their batch began are left out.
    """

    def __init__(self, handler: BatchHandler, *, size: int) -> None:
        self._handler = handler
        self._batches: Batching[ClaimedJob, object] = Batching(self._handle, max_items=size, skip_gone=True)

    async def __call__(self, job: ClaimedJob, _context: JobContext, /) -> object:
        return await self._batches.put(job)

    async def _handle(self, jobs: Sequence[ClaimedJob]) -> Sequence[object]:
        results = await self._handler(jobs)
        if len(results) != len(jobs):
            raise ValueError(f"the handler returned {len(results)} results for {len(jobs)} jobs")
        return results
