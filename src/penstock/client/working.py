"""The calls of a worker (claim, heartbeat, complete, fail), in wire types and with keywords for ``Client``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from msgspec import UNSET

from penstock.client.transport import Transport, error_named, naming
from penstock.client.views import as_id, as_raw
from penstock.errors import CallerError
from penstock.failures import Category
from penstock.jobs.work import (
    BatchCompletion,
    BatchHeartbeat,
    BatchItem,
    BatchResponse,
    ClaimedJob,
    ClaimRequest,
    ClaimResponse,
    Completion,
    Failure,
    Heartbeat,
    HeartbeatResult,
    JobCompletion,
    JobHeartbeat,
    JobState,
)

_JOBS: Final = "/api/v1/jobs"


class WorkRequests:
    """A worker's requests in the wire types; ``Client.work`` uses them.

    A report that names a ``tenant`` is about jobs of that tenant, otherwise about those of the sender's own.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def claim(self, request: ClaimRequest) -> Sequence[ClaimedJob]:
        """Lease jobs. This is not repeated when the connection breaks: jobs in a lost response return to pending when
        their lease expires."""
        found = await self._transport.call(
            "POST", f"{_JOBS}/claim", ClaimResponse, body=request, repeatable=False, wait=request.wait_seconds
        )
        return found.jobs

    async def heartbeat(
        self, beats: Sequence[JobHeartbeat], *, tenant: str | None = None
    ) -> Sequence[HeartbeatResult | CallerError]:
        """Extend leases; returns results in order, StaleEpoch and NotFound as values."""
        if not beats:
            return []
        found = await self._transport.call(
            "POST",
            f"{_JOBS}/heartbeat",
            BatchResponse,
            body=BatchHeartbeat(jobs=list(beats)),
            headers=naming(tenant),
        )
        return [_beaten(item) for item in found.results]

    async def complete(
        self, completions: Sequence[JobCompletion], *, tenant: str | None = None
    ) -> Sequence[JobState | CallerError]:
        """Report results; return outcomes in order, errors as values. Each is accepted or refused on its own."""
        if not completions:
            return []
        found = await self._transport.call(
            "POST",
            f"{_JOBS}/complete",
            BatchResponse,
            body=BatchCompletion(jobs=list(completions)),
            headers=naming(tenant),
        )
        return [
            _refused(item) if item.code is not None or item.status is None else JobState(id=item.id, status=item.status)
            for item in found.results
        ]

    async def complete_one(self, job_id: UUID, completion: Completion, *, tenant: str | None = None) -> JobState:
        """Report one result; raises StaleEpoch when the lease is no longer held."""
        body = Completion(
            epoch=completion.epoch, worker_id=completion.worker_id, result=completion.result, usage=completion.usage
        )
        path = f"{_JOBS}/{job_id}/complete"
        return await self._transport.call("POST", path, JobState, body=body, headers=naming(tenant))

    async def fail(self, job_id: UUID, failure: Failure, *, tenant: str | None = None) -> JobState:
        """Report that an attempt ended without a result; raises StaleEpoch when the lease is no longer held."""
        path = f"{_JOBS}/{job_id}/fail"
        return await self._transport.call("POST", path, JobState, body=failure, headers=naming(tenant))


class WorkCalls:
    """The calls of ``Client`` for workers that do not use ``Client.work``.

    Each report names the claimed job's ``epoch``, and its ``tenant`` if that is not the client's own.
    """

    _work_requests: WorkRequests
    _transport: Transport

    async def claim(
        self,
        worker_id: str,
        *,
        task_types: Collection[str] = (),
        model_profiles: Collection[str] = (),
        limit: int = 1,
        lease: timedelta | None = None,
        wait: timedelta = timedelta(0),
    ) -> Sequence[ClaimedJob]:
        """Lease up to ``limit`` jobs of these types and profiles (none: any), waiting up to ``wait`` for the first.

        ``lease`` is the gateway's WORKER_LEASE_TIMEOUT if it is not given; heartbeats extend it.
        """
        request = ClaimRequest(
            worker_id=worker_id,
            task_types=list(task_types),
            model_profiles=list(model_profiles),
            limit=limit,
            lease_seconds=None if lease is None else lease.total_seconds(),
            wait_seconds=wait.total_seconds(),
        )
        return await self._work_requests.claim(request)

    async def heartbeat(
        self,
        job_id: UUID | str,
        epoch: int,
        *,
        progress: object = UNSET,
        lease: timedelta | None = None,
        tenant: str | None = None,
    ) -> HeartbeatResult:
        """Extend a lease, and report progress: any JSON. The result says whether the job is to stop.

        Raises StaleEpoch when the lease is no longer held.
        """
        body = Heartbeat(
            epoch=epoch,
            lease_seconds=None if lease is None else lease.total_seconds(),
            progress=UNSET if progress is UNSET else as_raw(progress),
        )
        path = f"{_JOBS}/{as_id(job_id)}/heartbeat"
        return await self._transport.call("POST", path, HeartbeatResult, body=body, headers=naming(tenant))

    async def complete(
        self, job_id: UUID | str, epoch: int, result: object = None, *, tenant: str | None = None
    ) -> JobState:
        """Report a result: anything that can be written as JSON, or ``Raw`` JSON. The call may be repeated.

        Raises StaleEpoch when the lease is no longer held.
        """
        completion = Completion(epoch=epoch, result=as_raw(result))
        return await self._work_requests.complete_one(as_id(job_id), completion, tenant=tenant)

    async def fail(
        self,
        job_id: UUID | str,
        epoch: int,
        message: str = "",
        *,
        category: Category | str = Category.INTERNAL,
        retry_after: timedelta | None = None,
        tenant: str | None = None,
    ) -> JobState:
        """Report that an attempt ended without a result; ``category`` decides whether the job is tried again.

        Raises StaleEpoch when the lease is no longer held.
        """
        failure = Failure(
            epoch=epoch,
            category=Category(category),
            message=message,
            retry_after_seconds=None if retry_after is None else retry_after.total_seconds(),
        )
        return await self._work_requests.fail(as_id(job_id), failure, tenant=tenant)


def _refused(item: BatchItem) -> CallerError:
    """Return the gateway's result for one item of a batch."""
    message = item.detail or f"job {item.id} was refused"
    error = error_named(item.code or "", message, field=f"job {item.id}")
    return error if isinstance(error, CallerError) else CallerError(message)


def _beaten(item: BatchItem) -> HeartbeatResult | CallerError:
    if item.code is not None or item.lease_expires_at is None:
        return _refused(item)
    return HeartbeatResult(
        id=item.id, lease_expires_at=item.lease_expires_at, cancel_requested=bool(item.cancel_requested)
    )
