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
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Raw

from penstock.jobs.job import ClaimedJob, LogLine
from penstock.jobs.output import LARGEST_PROGRESS
from penstock.jobs.states import ErrorCategory
from penstock.jobs.usage import Usage
from penstock.workers.outbox import LARGEST_CHUNK, Outbox

_LONGEST_MESSAGE = 2000  # characters of an error message that are kept
_LONGEST_LINE = 10_000  # characters of a log line's message that are kept
_LONGEST_LEVEL = 20
_MOST_USAGES = 100


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
    """What an executor may tell while it runs one job. To be used on the worker's event loop.

    All of it is sent within a second, and before the job's end is reported; what is told later is ignored.
    """

    __slots__ = ("outbox", "usage")

    def __init__(self, changed: Callable[[], None]) -> None:
        self.outbox = Outbox(changed)
        self.usage: list[Usage] = []

    def used(self, usage: Usage) -> None:
        """Tell what a call to a provider used, or that it failed. Stored with the attempt's end, however it ends, and
        summed up in the statistics; the first hundred count. Raises ValueError for what cannot be stored."""
        if len(self.usage) < _MOST_USAGES:
            self.usage.append(msgspec.convert(msgspec.to_builtins(usage), Usage))

    def progress(self, value: object) -> None:
        """Tell how far the job is: any JSON, ``{"fraction": 0.4}`` by convention. Newest wins.

        Raises ValueError for ``bytes`` or ``Raw`` that are no JSON, and for more than 64 KiB.
        """
        self.outbox.put_progress(_checked(value, LARGEST_PROGRESS))

    def chunk(self, value: object) -> None:
        """Tell a part of the output: any JSON. None is lost, and their order is kept; see ``room``.

        Raises ValueError for ``bytes`` or ``Raw`` that are no JSON, and for a chunk of almost 1 MiB or more.
        """
        self.outbox.put_chunk(_checked(value, LARGEST_CHUNK))

    def log(self, message: str, level: str = "info") -> None:
        """Tell a line of the job's log. Never raises; lines that come much too fast are dropped and counted."""
        text = shortened(_plain(message), _LONGEST_LINE)
        name = "".join(char for char in _plain(level) if char.isprintable())[:_LONGEST_LEVEL]
        self.outbox.put_line(LogLine(time=datetime.now(UTC), level=name or "info", message=text))

    @property
    def crowded(self) -> bool:
        """Whether ``room`` would wait."""
        return self.outbox.crowded

    async def room(self) -> None:
        """Wait while too much output (10 MiB) is unsent. An executor that streams awaits it after each chunk."""
        await self.outbox.room()


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """An executor and the queues it serves: every pair of these task types and model profiles."""

    executor: Executor
    task_types: tuple[str, ...]
    model_profiles: tuple[str, ...]
    limit: int | None = None  # jobs at a time; None: the worker's


class Executors:
    """The executors of one worker, by (task type, model profile).

    They may come and go while the worker runs, on its event loop: an offer that is added gets jobs at once; one that is
    removed gets no more, and what it runs may finish.
    """

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    def add(
        self,
        executor: Executor,
        *,
        task_types: Collection[str],
        model_profiles: Collection[str],
        limit: int | None = None,
    ) -> Offer:
        """Serve every pair of these types and profiles, up to ``limit`` jobs at a time; answers what ``remove`` takes.

        Raises ValueError for a pair that is served already.
        """
        if not task_types or not model_profiles:
            raise ValueError("an executor needs at least one task type and one model profile")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; an executor needs to run at least 1 job at a time")
        for task_type in task_types:
            for model_profile in model_profiles:
                if self.find(task_type, model_profile) is not None:
                    raise ValueError(f"({task_type}, {model_profile}) has an executor already")
        offer = Offer(
            executor=executor, task_types=tuple(task_types), model_profiles=tuple(model_profiles), limit=limit
        )
        self.offers.append(offer)
        self._tell()
        return offer

    def remove(self, offer: Offer) -> None:
        """Serve these queues no more; nothing happens if they were removed already."""
        if offer in self.offers:
            self.offers.remove(offer)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

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


def shortened(message: str, longest: int = _LONGEST_MESSAGE) -> str:
    """``message`` at a length that is stored, without the U+0000 that PostgreSQL cannot store."""
    clean = message.replace("\x00", "")
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _plain(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _checked(value: object, most_bytes: int) -> Raw:
    """``value`` as JSON that a heartbeat can carry."""
    encoded = encode(value)
    if len(encoded) > most_bytes:
        raise ValueError(f"it has {len(encoded)} bytes as JSON; at most {most_bytes} are allowed")
    if isinstance(value, (bytes, Raw)):
        try:
            str(encoded, "utf-8")
            msgspec.json.decode(encoded, type=Raw)
        except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
            raise ValueError(f"it is given as JSON and is none: {error}") from error
    return Raw(encoded)
