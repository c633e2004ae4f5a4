"""The HTTP face of jobs: every endpoint under ``/api/v1`` that concerns them, declared once."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    MalformedBody,
    NotFound,
    StaleEpoch,
    TooLarge,
    Unsupported,
    WrongState,
)
from penstock.jobs import examples, output
from penstock.jobs.handlers import JobHandlers
from penstock.jobs.job import (
    BatchAnswer,
    BatchCompletion,
    BatchHeartbeat,
    BatchSubmission,
    BulkAnswer,
    BulkRequest,
    ClaimAnswer,
    ClaimRequest,
    Completion,
    CreatedBatch,
    Failure,
    Heartbeat,
    HeartbeatAnswer,
    Job,
    JobPage,
    JobState,
    JobSubmission,
    ListQuery,
    Name,
    Stats,
    WaitSeconds,
)
from penstock.web.route import Parameter, PathParameter, ResponseSpec, Route

_BODY_ERRORS = (MalformedBody, InvalidInput, TooLarge, Unsupported)

FILTER_MEANINGS = {
    "status": "any of these; may be repeated",
    "tags": "all of these; may be repeated",
    "created_after": "at this time or later, with its offset: 2026-01-30T09:00:00Z",
    "created_before": "before this time",
    "finished_after": "at this time or later",
    "finished_before": "before this time",
    "error_category": "of the last attempt",
    "worker_id": "of the worker that holds it, or held it last",
}

_EventId = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,18}(-[0-9]{1,18}){2})?$")]
_IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key", type=Name, description="the same as `idempotency_key` in the body", place="header"
)
_PREFER = Parameter(
    name="Prefer",
    type=str,
    description="`wait=N`: answer when the job is finished, after N ≤ 60 seconds at the latest",
    place="header",
)
_LIST_PARAMETERS = tuple(
    Parameter(
        name=field.encode_name,
        type=field.type,
        description=FILTER_MEANINGS.get(field.name, "exactly this"),
        repeated=field.name in {"status", "tags"},
    )
    for field in msgspec.structs.fields(ListQuery)
)
_ID = PathParameter(name="id", type=UUID, description="the job's id")


def routes(jobs: JobHandlers) -> list[Route]:
    """Every route of jobs."""
    return [*_calling(jobs), *_bulk(jobs), *_watching(jobs), *_working(jobs)]


def _calling(jobs: JobHandlers) -> list[Route]:
    sizes = jobs.sizes
    return [
        Route(
            method="POST",
            path="/api/v1/jobs",
            handler=jobs.submit,
            name="submitJob",
            tag="Jobs",
            summary="Create a job",
            description="With an idempotency key the same request creates one job, however often it is sent.",
            request=JobSubmission,
            request_example=examples.SUBMISSION,
            parameters=(_IDEMPOTENCY_KEY, _PREFER),
            responses={
                201: ResponseSpec(
                    description="Created; with `Prefer: wait` finished too", type=Job, example=examples.JOB
                ),
                200: ResponseSpec(
                    description="The same request was made before; this is its job", type=Job, example=examples.DONE
                ),
                202: ResponseSpec(
                    description="Created, and not finished within the time of `Prefer: wait`",
                    type=Job,
                    example=examples.JOB,
                ),
            },
            errors=(*_BODY_ERRORS, IdempotencyConflict, DatabaseUnavailable),
            max_body_bytes=sizes.one_job,
        ),
        Route(
            method="GET",
            path="/api/v1/jobs/{id}",
            path_parameters=(_ID,),
            handler=jobs.get,
            name="getJob",
            tag="Jobs",
            summary="Read a job: its state, result and failed attempts",
            parameters=(
                Parameter(name="wait", type=WaitSeconds, description="answer when finished, or after so long"),
            ),
            responses={200: ResponseSpec(description="The job", type=Job, example=examples.DONE)},
            errors=(InvalidInput, NotFound, DatabaseUnavailable),
        ),
        Route(
            method="GET",
            path="/api/v1/jobs",
            handler=jobs.list_jobs,
            name="listJobs",
            tag="Jobs",
            summary="List jobs, newest first",
            description=(
                "Every stated filter must match. A page may hold fewer jobs than asked for, even none: only a null "
                "`next_cursor` is the end. Payloads are left out."
            ),
            parameters=_LIST_PARAMETERS,
            responses={200: ResponseSpec(description="A page", type=JobPage, example=examples.PAGE)},
            errors=(InvalidInput, DatabaseUnavailable),
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/batch",
            handler=jobs.submit_batch,
            name="submitJobs",
            tag="Jobs",
            summary="Create many jobs with shared defaults, all or nothing",
            request=BatchSubmission,
            request_example=examples.BATCH,
            responses={
                201: ResponseSpec(
                    description="In the order of the request", type=CreatedBatch, example=examples.CREATED
                )
            },
            errors=(*_BODY_ERRORS, IdempotencyConflict, DatabaseUnavailable),
            max_body_bytes=sizes.batch,
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/{id}/retry",
            path_parameters=(_ID,),
            handler=jobs.retry,
            name="retryJob",
            tag="Jobs",
            summary="Send a failed job back to pending, or a running one, whose lease it takes away",
            responses={200: ResponseSpec(description="The job, pending", type=Job, example=examples.JOB)},
            errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/{id}/cancel",
            path_parameters=(_ID,),
            handler=jobs.cancel,
            name="cancelJob",
            tag="Jobs",
            summary="Cancel a pending job, or ask a running one to stop",
            description="A running job ends when its worker lets go, or when a grace period is over.",
            responses={
                200: ResponseSpec(
                    description="The job: cancelled, or running with `cancel_requested_at`",
                    type=Job,
                    example=examples.JOB | {"status": "cancelled", "finished_at": "2026-01-30T09:00:02.000000Z"},
                )
            },
            errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
        ),
    ]


def _bulk(jobs: JobHandlers) -> list[Route]:
    return [
        Route(
            method="POST",
            path=f"/api/v1/jobs/{verb}",
            handler=handler,
            name=f"{verb}Jobs",
            tag="Jobs",
            summary=summary,
            description="Takes the list's filters, at least one. Works in chunks; `dry_run` only counts.",
            request=BulkRequest,
            request_example=examples.BULK,
            responses={200: ResponseSpec(description="How many", type=BulkAnswer, example=examples.CHANGED)},
            errors=(*_BODY_ERRORS, DatabaseUnavailable),
        )
        for verb, handler, summary in (
            ("retry", jobs.retry_where, "Retry failed and running jobs by filter"),
            ("cancel", jobs.cancel_where, "Cancel pending and running jobs by filter"),
        )
    ]


def _working(jobs: JobHandlers) -> list[Route]:
    sizes = jobs.sizes
    errors = (*_BODY_ERRORS, NotFound, StaleEpoch, DatabaseUnavailable)
    return [
        Route(
            method="POST",
            path="/api/v1/jobs/claim",
            handler=jobs.claim,
            name="claimJobs",
            tag="Workers",
            summary="Lease pending jobs",
            description="Waits up to `wait_seconds` for the first. Every report must name the job's `epoch`.",
            request=ClaimRequest,
            request_example=examples.CLAIM,
            responses={
                200: ResponseSpec(
                    description="What was leased; may be empty", type=ClaimAnswer, example=examples.CLAIMED
                )
            },
            errors=(*_BODY_ERRORS, DatabaseUnavailable),
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/{id}/complete",
            path_parameters=(_ID,),
            handler=jobs.complete,
            name="completeJob",
            tag="Workers",
            summary="Hand in a result",
            description="Repeating it with the same epoch succeeds.",
            request=Completion,
            request_example=examples.COMPLETION,
            responses={200: ResponseSpec(description="Stored", type=JobState, example=examples.COMPLETED)},
            errors=errors,
            max_body_bytes=sizes.one_result,
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/{id}/heartbeat",
            path_parameters=(_ID,),
            handler=jobs.heartbeat,
            name="heartbeatJob",
            tag="Workers",
            summary="Keep a lease, tell progress, output and log, learn of a cancel",
            description=(
                "`chunks` and `logs` become the job's events `job.output` and `job.log`. Both are numbered within the "
                "attempt; `chunks_from` and `logs_from` are the numbers of the first ones sent, so that nothing "
                f"repeated is told twice. Together at most {output.MOST_ENTRIES} entries and {output.MOST_BYTES} bytes."
            ),
            request=Heartbeat,
            request_example=examples.HEARTBEAT,
            responses={
                200: ResponseSpec(description="The lease is extended", type=HeartbeatAnswer, example=examples.BEATEN)
            },
            errors=errors,
            max_body_bytes=sizes.one_heartbeat,
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/{id}/fail",
            path_parameters=(_ID,),
            handler=jobs.fail,
            name="failJob",
            tag="Workers",
            summary="Report that an attempt ended without a result",
            request=Failure,
            request_example=examples.FAILURE,
            responses={
                200: ResponseSpec(description="What becomes of the job", type=JobState, example=examples.BACKING_OFF)
            },
            errors=errors,
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/complete",
            handler=jobs.complete_many,
            name="completeJobs",
            tag="Workers",
            summary="Hand in many results; each stands or falls alone",
            request=BatchCompletion,
            request_example=examples.COMPLETIONS,
            responses={
                200: ResponseSpec(
                    description="In the order of the request", type=BatchAnswer, example=examples.ALL_COMPLETED
                )
            },
            errors=(*_BODY_ERRORS, DatabaseUnavailable),
            max_body_bytes=sizes.batch,
        ),
        Route(
            method="POST",
            path="/api/v1/jobs/heartbeat",
            handler=jobs.heartbeat_many,
            name="heartbeatJobs",
            tag="Workers",
            summary="Heartbeats for many jobs",
            request=BatchHeartbeat,
            request_example=examples.HEARTBEATS,
            responses={
                200: ResponseSpec(
                    description="In the order of the request", type=BatchAnswer, example=examples.ALL_BEATEN
                )
            },
            errors=(*_BODY_ERRORS, DatabaseUnavailable),
            max_body_bytes=sizes.batch,
        ),
    ]


def _watching(jobs: JobHandlers) -> list[Route]:
    stream = ResponseSpec(
        description=(
            "Server-sent events, each a CloudEvent. An event of type `reset` says that the events behind the reader's "
            "last id cannot be given: `data.reason` is `expired` (retention has dropped them), `ahead` or `replaced` "
            "(the database went back, as after a restore). What the reader holds may be out of date; the stream goes "
            "on with the job's first event, or for all jobs with what happens from now on."
        ),
        type=str,
        media_type="text/event-stream",
        example=examples.EVENT,
    )
    resume = (
        Parameter(name="after", type=_EventId, description="resume behind this event's id"),
        Parameter(name="Last-Event-ID", type=_EventId, description="the same, as EventSource sends it", place="header"),
    )
    return [
        Route(
            method="GET",
            path="/api/v1/jobs/{id}/events",
            path_parameters=(_ID,),
            handler=jobs.job_events,
            name="watchJob",
            tag="Events",
            summary="Everything that happened to a job, then live; ends with the job",
            parameters=resume,
            responses={200: stream, 204: ResponseSpec(description="The job is finished and has no later event")},
            errors=(InvalidInput, NotFound, DatabaseUnavailable),
        ),
        Route(
            method="GET",
            path="/api/v1/events",
            handler=jobs.events,
            name="watchAll",
            tag="Events",
            summary="Events of all jobs from now on, or behind one",
            parameters=resume,
            responses={200: stream},
            errors=(InvalidInput, DatabaseUnavailable),
        ),
        Route(
            method="GET",
            path="/api/v1/stats",
            handler=jobs.stats,
            name="getStats",
            tag="Statistics",
            summary="Counters per queue and owner",
            description="`pending` and `running` are as they are now, the rest since the beginning.",
            responses={200: ResponseSpec(description="The counters", type=Stats, example=examples.STATS)},
            errors=(InvalidInput, DatabaseUnavailable),
        ),
    ]
