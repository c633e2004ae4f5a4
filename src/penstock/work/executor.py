"""The contract of executors, which run jobs.

An executor is an async callable ``(job, context) -> result``. The result is anything that can be written as JSON;
``bytes`` and ``msgspec.Raw`` are JSON already. It runs on the worker's event loop: code that blocks
belongs in a thread or process of its own. When the job is cancelled, times out, is lost or handed back, the executor
gets ``asyncio.CancelledError``; from then on its result no longer counts.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from penstock.failures import CallFailed
from penstock.jobs.work import ClaimedJob
from penstock.work.context import JobContext


class ExecutionError(CallFailed):
    """Raised by an executor when an attempt ends without a result for a known reason.

    ``category`` decides whether the job is tried again; ``retry_after`` is the earliest time for that.
    The message is stored with the job and shown to its owner: never put secrets in it.
    """


class Executor(Protocol):
    """Runs one attempt of one job."""

    def __call__(self, job: ClaimedJob, context: JobContext, /) -> Awaitable[object]: ...
