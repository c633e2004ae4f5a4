"""Calls that are not in real time: a message with ``downMethod: async`` becomes a job, whose result is read later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import DataObject, Scalar
from penstock.athena.services import Service
from penstock.callbacks.callback import Callback
from penstock.errors import InvalidInput, NotFound
from penstock.failures import CallFailed
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.jobs.job import Job, JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.models.replica.data_urls import Unreadable, inlined, put, segment_of
from penstock.models.replica.runtime import Segment
from penstock.tenants.principal import Principal
from penstock.web.request import Request
from penstock.web.response import Headers

METHOD: Final = "downMethod"
_ASYNC: Final = "async"
_OWNER: Final = "athena"
_PREDICT: Final = "predict"
_MAX_TASK_ID: Final = 200
# The original's states of a task.
_STATES: Final = {
    Status.PENDING: "1",
    Status.RUNNING: "2",
    Status.WAITING: "2",
    Status.COMPLETED: "3",
    Status.FAILED: "4",
    Status.CANCELLED: "4",
}
_any: Final = msgspec.json.Decoder()


def is_task(header: Mapping[str, Scalar]) -> bool:
    """Return whether a message with this header becomes a job."""
    return header.get(METHOD) == _ASYNC


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A job of a service, as its client sees it."""

    job: Job

    @property
    def header(self) -> dict[str, Scalar]:
        """The fields of a response's header that state where the task is."""
        return {"task_id": str(self.job.id), "task_status": _STATES[self.job.status]}

    def results(self, service: Service, part: ServiceRequest) -> list[DataObject]:
        """Return the results of a completed task. Raises ModelFailed."""
        value = _any.decode(self.job.result or b"null")
        segments = list(_media(value))
        for one in segments:
            value = put(value, one.path, None)
        return service.output(msgspec.json.encode(value), segments, part)


class Tasks:
    """Submits tasks as jobs of the sender's tenant, and reads them."""

    def __init__(self, jobs: JobService, submitting: SubmitRoutes) -> None:
        self._jobs = jobs
        self._submitting = submitting

    async def submit(
        self, request: Request, service: Service, part: ServiceRequest, *, sid: str
    ) -> tuple[Task, Headers]:
        """Submit a call as a job, within the quotas of the sender. A ``task_id`` makes the request repeatable.

        Raises InvalidInput that names fields of the message, TooLarge, QuotaExceeded, and IdempotencyConflict.
        """
        principal = request.principal
        key = _task_id(part.header, principal)
        if key is not None:  # a repeated request must be the same job
            sid = _sid_of(key)
        given = service.input(part, sid)
        submission = JobSubmission(
            owner_service=_OWNER,
            owner_ref=sid,
            task_type=_PREDICT,
            model_profile=service.name,
            user_id=principal.user or "",
            input=Raw(_inlined(given.json, list(given.segments))),
            idempotency_key=key,
            callback=_callback(part.header),
        )
        # The sender may call the service, and so needs no right to use the queue of its jobs.
        accepted = await self._submitting.accept_job(request, submission, location="", of_app=True)
        return Task(job=accepted.job), [one for one in accepted.headers if one[0] != b"location"]

    async def find(self, principal: Principal, service: Service, task_id: str) -> Task:
        """Return a task of a service that the sender's key has submitted. Raises NotFound."""
        try:
            job = await self._jobs.of(principal.tenant).get(UUID(task_id))
        except ValueError:
            raise NotFound("there is no such task") from None
        own = principal.operator or (job.key_id or None) == principal.key
        if job.owner_service != _OWNER or job.model_profile != service.name or not own:
            raise NotFound("there is no such task")
        return Task(job=job)


def _task_id(header: Mapping[str, Scalar], principal: Principal) -> str | None:
    stated = str(header.get("task_id", ""))
    if len(stated) > _MAX_TASK_ID or not stated.isprintable():
        raise InvalidInput.of("header.task_id", f"must be at most {_MAX_TASK_ID} printable characters")
    return f"{principal.key or ''}:{stated}" if stated else None


def _sid_of(key: str) -> str:
    """Return the session id of a task whose client names it."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"ase{digest[:8]}@dx{digest[8:23]}002"


def _callback(header: Mapping[str, Scalar]) -> Callback | None:
    url = header.get("callback_url")
    if url is None:
        return None
    try:
        return msgspec.convert({"url": url}, Callback)
    except msgspec.ValidationError as error:
        raise InvalidInput.of("header.callback_url", str(error)) from None


def _inlined(json: bytes, segments: list[Segment]) -> bytes:
    try:
        return inlined(json, segments)
    except CallFailed as error:
        raise InvalidInput.of("payload", error.message) from None


def _media(value: Any, path: tuple[str | int, ...] = ()) -> list[Segment]:
    """Return the media that stand as ``data:`` URLs in a result, with their places."""
    if isinstance(value, str) and value.startswith("data:") and ";base64," in value[:200]:
        try:
            return [segment_of(value, path)]
        except Unreadable:
            return []
    if isinstance(value, dict):
        return [one for name, inner in value.items() for one in _media(inner, (*path, name))]
    if isinstance(value, list):
        return [one for index, inner in enumerate(value) for one in _media(inner, (*path, index))]
    return []
