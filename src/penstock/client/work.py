"""A worker over HTTP: the engine of every worker, with a client as its source of jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from penstock.batching import Batching, values
from penstock.client.working import WorkRequests
from penstock.errors import CallerError
from penstock.jobs.work import ClaimedJob, ClaimRequest, Failure, HeartbeatResult, JobCompletion, JobHeartbeat, JobState

_MAX_COMPLETIONS = 200  # in one request
_MAX_COMPLETION_BYTES = 2**19  # of their results


class PlainLog:
    """Writes structured events to the standard ``logging`` of the user's program, as ``event key=value``."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            text = "".join(f" {name}={value!s}" for name, value in fields.items())
            self._logger.log(level, "%s%s", event, text, exc_info=exc_info)


class HttpSource:
    """The source of jobs that calls a gateway. Completions that arrive while a request is in flight share the next."""

    def __init__(self, requests: WorkRequests) -> None:
        self._requests = requests
        self._completions: dict[str, Batching[JobCompletion, JobState]] = {}  # by tenant

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
        return await self._requests.claim(request)

    async def heartbeat(self, tenant: str, beats: Sequence[JobHeartbeat]) -> Sequence[HeartbeatResult | CallerError]:
        return await self._requests.heartbeat(beats, tenant=tenant)

    async def fail(self, tenant: str, job_id: UUID, failure: Failure) -> JobState:
        return await self._requests.fail(job_id, failure, tenant=tenant)

    async def complete(self, tenant: str, completions: Sequence[JobCompletion]) -> Sequence[JobState | CallerError]:
        batching = self._completions.get(tenant)
        if batching is None:
            batching = self._completions[tenant] = self._batching(tenant)
        return values(await batching.put_all(completions), CallerError)

    def _batching(self, tenant: str) -> Batching[JobCompletion, JobState]:
        async def complete(completions: Sequence[JobCompletion]) -> Sequence[JobState | CallerError]:
            if len(completions) == 1:
                return [await self._requests.complete_one(completions[0].id, completions[0], tenant=tenant)]
            return await self._requests.complete(completions, tenant=tenant)

        return Batching(
            complete,
            max_items=_MAX_COMPLETIONS,
            max_bytes=_MAX_COMPLETION_BYTES,
            weigh=lambda completion: len(completion.result),
            refused=(CallerError,),
        )
