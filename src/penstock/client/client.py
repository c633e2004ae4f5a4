"""The asynchronous client: all calls of the API, event streams, and a complete worker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Collection, Mapping
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from penstock.client.access import AccessCalls
from penstock.client.apps import AppCalls
from penstock.client.athena import AthenaCalls
from penstock.client.blobs import BlobCalls
from penstock.client.callbacks import CallbackCalls
from penstock.client.collections import CollectionCalls
from penstock.client.flows import FlowCalls
from penstock.client.jobs import JobCalls
from penstock.client.models import ModelCalls
from penstock.client.queues import QueueCalls
from penstock.client.quotas import QuotaCalls
from penstock.client.transport import Transport
from penstock.client.usage import UsageCalls
from penstock.client.work import HttpSource, PlainLog
from penstock.client.working import WorkCalls, WorkRequests
from penstock.jobs.counts import Stats
from penstock.processes.stopping import on_signals
from penstock.work.engine import Engine
from penstock.work.executor import Executor
from penstock.work.source import Duty


class Client(
    JobCalls,
    WorkCalls,
    QueueCalls,
    ModelCalls,
    BlobCalls,
    AccessCalls,
    QuotaCalls,
    UsageCalls,
    CallbackCalls,
    CollectionCalls,
    FlowCalls,
    AppCalls,
    AthenaCalls,
):
    """A client of one gateway; use it as ``async with Client(url, token=…) as client``.

    Raises ValueError for a URL that is not an HTTP URL. Errors of the gateway are raised as the classes of
    ``penstock.errors``, and Unreachable if it cannot be reached. Calls that are safe to repeat are retried up to four
    times, each after a delay that the gateway may lengthen. Every submission has an idempotency key, generated here if
    the caller gives none, so that repeating it after a broken connection still creates only one job.
    ``headers`` are sent with every request.

    ``token`` is a key, or AI_SERVICE_TOKEN. ``tenant`` is the tenant for which an operator calls, ``user`` the end user
    on whose behalf all calls are made.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        owner_service: str = "python",
        timeout: timedelta = timedelta(seconds=30),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.owner_service = owner_service  # of jobs that do not set one
        self._transport = Transport(url, token=token, timeout=timeout, tenant=tenant, user=user, headers=headers)
        self._work_requests = WorkRequests(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def for_tenant(self, name: str) -> Client:
        """Return a client on the same connections whose calls are about a tenant's data; only an operator may do so.

        It is closed with this one.
        """
        other = copy(self)
        other._transport = self._transport.for_tenant(name)
        other._work_requests = WorkRequests(other._transport)
        return other

    async def stats(self) -> Stats:
        """Return the counters: totals, by queue and by owner."""
        return await self._transport.call("GET", "/api/v1/stats", Stats)

    async def providers_status(self) -> dict[str, Any]:
        """Return whether the configured AI providers can be reached, in ``providers``."""
        return await self._transport.call("GET", "/api/v1/providers/status", dict[str, Any])

    async def infra_status(self) -> dict[str, Any]:
        """Return what the sidecars on GPU hosts report, in ``configured`` and ``sidecars``."""
        return await self._transport.call("GET", "/api/v1/infra/status", dict[str, Any])

    async def work(
        self,
        handler: Executor,
        *,
        worker_id: str | None = None,
        task_types: Collection[str] = (),
        model_profiles: Collection[str] = (),
        limit: int = 1,
        lease: timedelta = timedelta(seconds=60),
        grace: timedelta = timedelta(seconds=30),
        stop: asyncio.Event | None = None,
    ) -> None:
        """Work on jobs: run ``await handler(job, context)`` for each, up to ``limit`` at a time, until stopped.

        The handler returns the job's result; see ``penstock.work.executors`` for errors, progress and batches. Leases
        are kept by heartbeats; a cancelled job's handler gets CancelledError. ``stop`` ends it; without one, SIGTERM
        and SIGINT do. Then running jobs have ``grace`` to finish, and the rest is handed back.
        """
        duty = Duty(
            worker_id=worker_id or f"{socket.gethostname()}-{os.getpid()}",
            task_types=tuple(task_types),
            model_profiles=tuple(model_profiles),
            limit=limit,
            lease=lease,
            poll=timedelta(seconds=20),
            beat=timedelta(seconds=2),
            grace=grace,
        )
        engine = Engine(HttpSource(self._work_requests), handler, duty, log=PlainLog("penstock.worker"))
        stopping = stop or asyncio.Event()
        working = asyncio.create_task(engine.run())
        waiting = asyncio.create_task(stopping.wait())
        try:
            if stop is None:
                with on_signals(stopping.set):
                    await self._work(engine, working, waiting)
            else:
                await self._work(engine, working, waiting)
        finally:
            waiting.cancel()
            working.cancel()
            await asyncio.wait([working, waiting])

    async def _work(self, engine: Engine, working: asyncio.Task[None], waiting: asyncio.Task[bool]) -> None:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await engine.stop()
        await working
