"""What runs a job: the contract of executors, and which one a worker has for which queue.

An executor is an async callable ``(job, context) -> result``. The result is anything that can be written as JSON;
``bytes`` and ``msgspec.Raw`` are taken for JSON as they are. It runs on the worker's event loop: code that blocks
belongs in a thread or process of its own. When the job is cancelled, times out, is lost or handed back, the executor
gets ``asyncio.CancelledError``; from then on its result no longer counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Raw

from penstock.jobs.job import ClaimedJob
from penstock.jobs.states import ErrorCategory

_LONGEST_MESSAGE = 2000  # characters of an error message that are kept


class ExecutionError(Exception):
    """An attempt ended without a result, for a known reason.

    ``category`` decides whether the job is tried again; ``retry_after`` is the earliest time for that.
    The message is stored with the job and shown to its owner: never put secrets in it.
    """

    def __init__(self, category: ErrorCategory | str, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.category = ErrorCategory(category)
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        return str(self.args[0])


class JobContext:
    """What an executor may tell and ask while it runs one job."""

    __slots__ = ("_changed", "unsent")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.unsent: Raw | None = None  # progress that no heartbeat has carried yet

    def progress(self, value: object) -> None:
        """Tell how far the job is: any JSON, ``{"fraction": 0.4}`` by convention. Sent within a second, newest wins."""
        self.unsent = Raw(encode(value))
        self._changed()


class Executor(Protocol):
    """Runs one attempt of one job."""

    def __call__(self, job: ClaimedJob, context: JobContext, /) -> Awaitable[object]: ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An executor and the queues it serves: every pair of these task types and model profiles."""

    executor: Executor
    task_types: tuple[str, ...]
    model_profiles: tuple[str, ...]


class Executors:
    """The executors of one worker, by (task type, model profile)."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []

    def add(self, executor: Executor, *, task_types: Collection[str], model_profiles: Collection[str]) -> None:
        """Serve every pair of these types and profiles; raises ValueError for a pair that is served already."""
        if not task_types or not model_profiles:
            raise ValueError("an executor needs at least one task type and one model profile")
        for task_type in task_types:
            for model_profile in model_profiles:
                if self.find(task_type, model_profile) is not None:
                    raise ValueError(f"({task_type}, {model_profile}) has an executor already")
        self.offers.append(Offer(executor=executor, task_types=tuple(task_types), model_profiles=tuple(model_profiles)))

    def find(self, task_type: str, model_profile: str) -> Executor | None:
        """The executor of a queue."""
        for offer in self.offers:
            if task_type in offer.task_types and model_profile in offer.model_profiles:
                return offer.executor
        return None


def encode(value: object) -> bytes:
    """``value`` as JSON; ``bytes`` and ``Raw`` are JSON already."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value)


def shortened(message: str) -> str:
    """``message`` at a length that is stored, without the U+0000 that PostgreSQL cannot store."""
    clean = message.replace("\x00", "")
    return clean if len(clean) <= _LONGEST_MESSAGE else clean[: _LONGEST_MESSAGE - 1] + "…"
