"""The API of one service of an app: send a task, and read its state and result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from penstock.apps.layout import Layout, Service
from penstock.apps.results import with_links
from penstock.apps.serving.schemas import TaskCheck
from penstock.apps.serving.views import ServiceHealth, Task, TaskRequest
from penstock.blobs.links import BlobLinks
from penstock.errors import (
    BlobStoreUnavailable,
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    PriceMissing,
    QuotaExceeded,
)
from penstock.jobs.fields import WaitSeconds
from penstock.jobs.http.allowed import reads
from penstock.jobs.http.submitting import IDEMPOTENCY_KEY, PREFER, SubmitRoutes
from penstock.jobs.job import Job, JobSubmission
from penstock.postgres.pool import Database
from penstock.tenants import scopes
from penstock.tenants.principal import TenantId
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import H, Parameter, PathParameter, ResponseSpec, route

_TAG: Final = "Tasks"
_PREDICT: Final = "predict"
_NO_STORE: Final = [(b"cache-control", b"no-store")]
_request = msgspec.json.Decoder(TaskRequest)
_TASK: Final[dict[str, Any]] = {
    "task_id": "0194b7a0-0000-7000-8000-000000000000",
    "service": "audio-gen",
    "user_id": "ada",
    "status": "completed",
    "created_at": "2026-01-30T09:00:00.000000Z",
    "started_at": "2026-01-30T09:00:00.050000Z",
    "finished_at": "2026-01-30T09:00:12.000000Z",
    "progress": None,
    "result": {"duration": 5.0},
    "media": [],
    "error": None,
    "warnings": [],
}


class _Wait(Struct, frozen=True, kw_only=True):
    """The query of a task."""

    wait: WaitSeconds | None = None


def _sending(path: str, *, name: str, summary: str, description: str = "") -> Callable[[H], H]:
    """Declare a method as the handler that accepts tasks at a path."""
    return route(
        "POST",
        path,
        name=name,
        tag=_TAG,
        scope=scopes.JOBS_SUBMIT,
        summary=summary,
        description=description,
        request=TaskRequest,
        request_example={"input": {"text": "rain"}, "user_id": "ada"},
        parameters=(IDEMPOTENCY_KEY, PREFER),
        responses={
            202: ResponseSpec(description="Accepted", type=Task, example=_TASK),
            200: ResponseSpec(description="It has ended", type=Task, example=_TASK),
        },
        errors=(*BODY_ERRORS, Forbidden, IdempotencyConflict, QuotaExceeded, PriceMissing, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )


class TaskRoutes:
    """Accepts tasks of one service, which are jobs of its model. Tasks that flows have started are read here too."""

    def __init__(
        self,
        layout: Layout,
        service: Service,
        *,
        submitting: SubmitRoutes,
        links: BlobLinks,
        database: Database,
    ) -> None:
        self._layout = layout
        self._service = service
        self._submitting = submitting
        self._links = links
        self._database = database
        self._check = TaskCheck(database, service.model)
        self.sizes = submitting.sizes

    @_sending("/", name="sendTaskToRoot", summary="Send a task; the same as POST /tasks")
    @_sending(
        "/tasks",
        name="sendTask",
        summary="Send a task",
        description="The input is checked by the schema of the model while a worker has it, otherwise by the worker. "
        "With an idempotency key the same task is done once, however often it is sent. With `Prefer: wait` the "
        "response has the result, if the task ends in time.",
    )
    async def send(self, request: Request) -> Response:
        request.query({})
        given = await request.read(_request)
        submission = JobSubmission(
            owner_service=self._service.name,
            task_type=_PREDICT,
            model_profile=self._service.model,
            input=given.input,
            user_id=given.user_id,
            idempotency_key=given.idempotency_key,
            priority=given.priority,
            tags=given.tags,
            callback=given.callback,
        )
        refusal = await self._check.refusal(given.input)
        accepted = await self._submitting.accept_job(request, submission, location="/tasks/", refusal=refusal)
        job = await self._submitting.warned(request, accepted.job)
        status = 200 if job.status.finished else 202
        return json_response(await self._task(request.principal.tenant, job), status, accepted.headers)

    @route(
        "GET",
        "/tasks/{id}",
        name="getTask",
        tag=_TAG,
        scope=scopes.JOBS_READ,
        summary="Read a task: its state, progress and result",
        description="Files in the result are URLs from which anyone may download them for an hour.",
        path_parameters=(PathParameter(name="id", type=UUID, description="the task's id", subject="job"),),
        parameters=(
            Parameter(
                name="wait", type=WaitSeconds, description="respond when the task has ended, or after that many seconds"
            ),
        ),
        responses={200: ResponseSpec(description="The task", type=Task, example=_TASK)},
        errors=(InvalidInput, NotFound, BlobStoreUnavailable, DatabaseUnavailable),
    )
    async def read(self, request: Request) -> Response:
        wanted = request.query_as(_Wait)
        job_id, sender = request.path_id(), request.principal
        job = await self._submitting.jobs(request).get(job_id)
        ours = (job.task_type, job.model_profile) == (_PREDICT, self._service.model)
        if not ours or not reads(sender, job):
            raise NotFound(f"the service {self._service.name} has no task {job_id}")
        if wanted.wait is not None and not job.status.finished:
            job = await self._submitting.wait(request, job_id, wanted.wait)
        return json_response(await self._task(sender.tenant, job), headers=_NO_STORE)

    @route(
        "GET",
        "/health",
        name="serviceHealth",
        tag=_TAG,
        scope=scopes.JOBS_READ,
        summary="Check whether the service accepts tasks",
        responses={
            200: ResponseSpec(
                description="It accepts tasks",
                type=ServiceHealth,
                example={
                    "status": "ok",
                    "app": "audiocraft",
                    "version": "0.1.4",
                    "service": "audio-gen",
                    "model": "audiogen",
                },
            )
        },
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def health(self, request: Request) -> Response:
        request.query({})
        await self._database.ping()
        return json_response(
            ServiceHealth(
                status="ok",
                app=self._layout.name,
                version=self._layout.version,
                service=self._service.name,
                model=self._service.model,
            )
        )

    async def _task(self, tenant: TenantId, job: Job) -> Task:
        result, media = await with_links(job.result, self._links, tenant)
        return Task(
            task_id=job.id,
            service=self._service.name,
            user_id=job.user_id,
            status=job.status,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            progress=job.progress,
            result=result,
            media=media,
            error=job.error,
            warnings=job.warnings,
        )
