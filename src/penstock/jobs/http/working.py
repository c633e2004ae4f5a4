"""Receive what workers send: claims, heartbeats, results and failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from penstock.errors import (
    CallerError,
    DatabaseUnavailable,
    Forbidden,
    InvalidInput,
    NotFound,
    StaleEpoch,
    TooLarge,
)
from penstock.jobs import output
from penstock.jobs.announcements import FLOW
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import narrowed
from penstock.jobs.http.base import JOB_ID, JobRoutes
from penstock.jobs.work import (
    BatchCompletion,
    BatchHeartbeat,
    BatchItem,
    BatchResponse,
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
from penstock.tenants import scopes
from penstock.web.body import Disconnected
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

T = TypeVar("T")

_claim = msgspec.json.Decoder(ClaimRequest)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_heartbeats = msgspec.json.Decoder(BatchHeartbeat)
_completion = msgspec.json.Decoder(Completion)
_completions = msgspec.json.Decoder(BatchCompletion)
_failure = msgspec.json.Decoder(Failure)

_ERRORS: Final = (*BODY_ERRORS, NotFound, DatabaseUnavailable)
_REPORT_ERRORS: Final = (*_ERRORS, StaleEpoch)


class WorkRoutes(JobRoutes):
    """Leases jobs to workers and receives their reports."""

    @route(
        "POST",
        "/api/v1/jobs/claim",
        name="claimJobs",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Lease pending jobs",
        description=(
            "Waits up to `wait_seconds` for the first. Every report must name the job's `epoch`. A key of a tenant "
            "claims that tenant's jobs. An operator claims jobs of all tenants, which take turns, unless the header "
            "`Penstock-Tenant` names one. An operator's reports about jobs of another tenant than `default` carry that "
            "header with the job's `tenant`."
        ),
        request=ClaimRequest,
        request_example=examples.CLAIM,
        responses={
            200: ResponseSpec(description="The leased jobs; may be empty", type=ClaimResponse, example=examples.CLAIMED)
        },
        errors=(*_ERRORS, Forbidden),
    )
    async def claim(self, request: Request) -> Response:
        wanted = narrowed(request.principal, await request.read(_claim))
        if FLOW in wanted.task_types:
            raise InvalidInput.of("task_types", f"must not contain {FLOW}: workers with PENSTOCK_FLOWS_DIR run flows")
        serves_all = request.principal.operator and b"penstock-tenant" not in request.headers
        source = self._service if serves_all else self.jobs(request)
        claiming = source.claim(wanted)
        jobs = await request.unless_left(claiming) if wanted.wait_seconds else await claiming
        if jobs and await request.gone():
            source.hand_back(jobs)
            raise Disconnected
        return json_response(ClaimResponse(jobs=jobs or []))

    @route(
        "POST",
        "/api/v1/jobs/{id}/complete",
        name="completeJob",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Hand in a result",
        description="Repeating it with the same epoch succeeds.",
        request=Completion,
        request_example=examples.COMPLETION,
        path_parameters=(JOB_ID,),
        responses={200: ResponseSpec(description="Stored", type=JobState, example=examples.COMPLETED)},
        errors=_REPORT_ERRORS,
        max_body_bytes=lambda routes: routes.sizes.one_result,
    )
    async def complete(self, request: Request) -> Response:
        job_id = request.path_id()
        completion = await request.read(_completion)
        self._check_result(completion.result, "result")
        return json_response(await self.jobs(request).complete(_of_job(JobCompletion, job_id, completion)))

    @route(
        "POST",
        "/api/v1/jobs/{id}/heartbeat",
        name="heartbeatJob",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Extend a lease, report progress, output and log, and learn of a cancel",
        description=(
            "`chunks` and `logs` become the job's events `job.output` and `job.log`. Both are numbered within the "
            "attempt; `chunks_from` and `logs_from` are the numbers of the first ones sent, so that a "
            "repeated heartbeat stores nothing twice. "
            f"Together at most {output.MAX_ENTRIES} entries and {output.MAX_BYTES} bytes."
        ),
        request=Heartbeat,
        request_example=examples.HEARTBEAT,
        path_parameters=(JOB_ID,),
        responses={
            200: ResponseSpec(description="The lease is extended", type=HeartbeatResult, example=examples.BEATEN)
        },
        errors=_REPORT_ERRORS,
        max_body_bytes=lambda routes: routes.sizes.one_heartbeat,
    )
    async def heartbeat(self, request: Request) -> Response:
        job_id = request.path_id()
        beat = await request.read(_heartbeat)
        output.check(beat)
        jobs = self.jobs(request)
        (result,) = await jobs.heartbeat([_of_job(JobHeartbeat, job_id, beat)])
        if isinstance(result, CallerError):
            raise result
        return json_response(result)

    @route(
        "POST",
        "/api/v1/jobs/{id}/fail",
        name="failJob",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Report that an attempt ended without a result",
        request=Failure,
        request_example=examples.FAILURE,
        path_parameters=(JOB_ID,),
        responses={200: ResponseSpec(description="The job's new state", type=JobState, example=examples.BACKING_OFF)},
        errors=_REPORT_ERRORS,
    )
    async def fail(self, request: Request) -> Response:
        job_id = request.path_id()
        failure = await request.read(_failure)
        jobs = self.jobs(request)
        return json_response(await jobs.fail(job_id, failure))

    @route(
        "POST",
        "/api/v1/jobs/complete",
        name="completeJobs",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Report many results; each is accepted or refused on its own",
        request=BatchCompletion,
        request_example=examples.COMPLETIONS,
        responses={
            200: ResponseSpec(
                description="In the order of the request", type=BatchResponse, example=examples.ALL_COMPLETED
            )
        },
        errors=_ERRORS,
        max_body_bytes=lambda routes: routes.sizes.batch,
    )
    async def complete_many(self, request: Request) -> Response:
        completions = (await request.read(_completions)).jobs
        for index, completion in enumerate(completions):
            self._check_result(completion.result, f"jobs[{index}].result")
        jobs = self.jobs(request)
        results = await jobs.complete_many(completions)
        return _batch_response([completion.id for completion in completions], results, _completed)

    @route(
        "POST",
        "/api/v1/jobs/heartbeat",
        name="heartbeatJobs",
        tag="Workers",
        scope=scopes.JOBS_WORK,
        summary="Send heartbeats for many jobs",
        request=BatchHeartbeat,
        request_example=examples.HEARTBEATS,
        responses={
            200: ResponseSpec(
                description="In the order of the request", type=BatchResponse, example=examples.ALL_BEATEN
            )
        },
        errors=_ERRORS,
        max_body_bytes=lambda routes: routes.sizes.batch,
    )
    async def heartbeat_many(self, request: Request) -> Response:
        beats = (await request.read(_heartbeats)).jobs
        for index, beat in enumerate(beats):
            output.check(beat, f"jobs[{index}].")
        jobs = self.jobs(request)
        return _batch_response([beat.id for beat in beats], await jobs.heartbeat(beats), _beaten)

    def _check_result(self, value: Raw, field: str) -> None:
        if len(bytes(value)) > self.sizes.result:
            raise TooLarge(f"{field} has {len(bytes(value))} bytes; at most {self.sizes.result} are allowed")


def _of_job(kind: Callable[..., T], job_id: UUID, report: Struct) -> T:
    """Return a report about one job as the item of a batch, which names its job."""
    return kind(id=job_id, **{name: getattr(report, name) for name in report.__struct_fields__})


def _batch_response(
    ids: Sequence[UUID], results: Sequence[T | CallerError], item: Callable[[UUID, T], BatchItem]
) -> Response:
    """Return the result of each report, in order."""
    items = [
        _refused(job_id, result) if isinstance(result, CallerError) else item(job_id, result)
        for job_id, result in zip(ids, results, strict=True)
    ]
    return json_response(BatchResponse(results=items))


def _completed(job_id: UUID, state: JobState) -> BatchItem:
    return BatchItem(id=job_id, status=state.status)


def _beaten(job_id: UUID, result: HeartbeatResult) -> BatchItem:
    return BatchItem(id=job_id, lease_expires_at=result.lease_expires_at, cancel_requested=result.cancel_requested)


def _refused(job_id: UUID, error: CallerError) -> BatchItem:
    """Return the error of one item, with details where the code alone is not enough."""
    return BatchItem(id=job_id, code=error.code, detail=error.message if isinstance(error, InvalidInput) else None)
