"""Retry and cancel jobs, by id or by filter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    WrongState,
)
from penstock.jobs.filters import BulkRequest, BulkResponse, JobFilter
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import require_job, selected
from penstock.jobs.http.base import JOB_ID, JobRoutes
from penstock.jobs.http.filters import LISTS, MOMENTS
from penstock.jobs.job import Job
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS, check_moment, convert
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

_bulk = msgspec.json.Decoder(BulkRequest)


class ChangeRoutes(JobRoutes):
    """Retries and cancels jobs."""

    @route(
        "POST",
        "/api/v1/jobs/{id}/retry",
        name="retryJob",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Return a failed or running job to pending; a running one loses its lease",
        path_parameters=(JOB_ID,),
        responses={200: ResponseSpec(description="The job, pending", type=Job, example=examples.JOB)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def retry(self, request: Request) -> Response:
        jobs, job_id = self.jobs(request), request.path_id()
        await require_job(request.principal, jobs, job_id)
        return json_response(await jobs.retry(job_id))

    @route(
        "POST",
        "/api/v1/jobs/{id}/cancel",
        name="cancelJob",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Cancel a pending job, or request that a running one stop",
        description="A running job ends when its worker stops it, or when a grace period is over.",
        path_parameters=(JOB_ID,),
        responses={
            200: ResponseSpec(
                description="The job: cancelled, or running with `cancel_requested_at`",
                type=Job,
                example=examples.JOB | {"status": "cancelled", "finished_at": "2026-01-30T09:00:02.000000Z"},
            )
        },
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def cancel(self, request: Request) -> Response:
        jobs, job_id = self.jobs(request), request.path_id()
        await require_job(request.principal, jobs, job_id)
        return json_response(await jobs.cancel(job_id))

    @route(
        "POST",
        "/api/v1/jobs/retry",
        name="retryJobs",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Retry failed and running jobs by filter",
        description="Takes the list's filters, at least one. Works in chunks; `dry_run` only counts.",
        request=BulkRequest,
        request_example=examples.BULK,
        responses={200: ResponseSpec(description="The number of jobs", type=BulkResponse, example=examples.CHANGED)},
        errors=(*BODY_ERRORS, DatabaseUnavailable),
    )
    async def retry_where(self, request: Request) -> Response:
        return await _change_all(request, self.jobs(request).retry_where)

    @route(
        "POST",
        "/api/v1/jobs/cancel",
        name="cancelJobs",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Cancel pending and running jobs by filter",
        description="Takes the list's filters, at least one. Works in chunks; `dry_run` only counts.",
        request=BulkRequest,
        request_example=examples.BULK,
        responses={200: ResponseSpec(description="The number of jobs", type=BulkResponse, example=examples.CHANGED)},
        errors=(*BODY_ERRORS, DatabaseUnavailable),
    )
    async def cancel_where(self, request: Request) -> Response:
        return await _change_all(request, self.jobs(request).cancel_where)


async def _change_all(request: Request, change: Callable[..., Awaitable[int]]) -> Response:
    """Change the jobs that the request selects, or only count them."""
    where, dry_run = _bulk_filter(await request.read(_bulk))
    counts = [await change(one, dry_run=dry_run) for one in selected(request.principal, where)]
    return json_response(BulkResponse(count=sum(counts), dry_run=dry_run))


def _bulk_filter(request: BulkRequest) -> tuple[JobFilter, bool]:
    stated = {name: getattr(request, name) for name in JobFilter.__struct_fields__}
    for name in LISTS:
        if isinstance(stated[name], str):
            stated[name] = [stated[name]]
    if isinstance(request.tags, str):
        convert({"tags": stated["tags"]}, JobFilter)
    where = JobFilter(**stated)
    if where == JobFilter():
        raise InvalidInput.of("body", f"needs at least one filter: {', '.join(JobFilter.__struct_fields__)}")
    for name in MOMENTS:
        check_moment(getattr(where, name), name)
    return where, request.dry_run
