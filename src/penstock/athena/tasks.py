"""Calls that are not in real time: a message with ``downMethod: async`` becomes a job, whose result is read later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.athena.protocol.addressing import ServiceRequest, in_message
from penstock.athena.protocol.data import DataObject, Scalar
from penstock.athena.services import Service
from penstock.callbacks.callback import Callback
from penstock.errors import IdempotencyConflict, InvalidInput, ModelFailed, NotFound, PenstockError
from penstock.failures import CallFailed, Category, error_of
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.jobs.job import Job, JobSubmission
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.models.host.calls import CallResult
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
_MAX_TAG, _MAX_TAGS = 100, 32  # characters of a job's tag, tags of a job
_FAILED: Final = "4"
# The original's states of a task.
_STATES: Final = {
    Status.PENDING: "1",
    Status.RUNNING: "2",
    Status.WAITING: "2",
    Status.COMPLETED: "3",
    Status.FAILED: _FAILED,
    Status.CANCELLED: _FAILED,
}
# Fields of a job → those of the message.
_FIELDS: Final = {"callback.url": "header.callback_url", "user_id": "header.uid", "idempotency_key": "header.task_id"}
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

    @property
    def failure(self) -> PenstockError | None:
        """The error in which the task has ended; None for one that succeeded, runs, or will be tried again."""
        if _STATES[self.job.status] != _FAILED:
            return None
        if self.job.error is None:
            return ModelFailed("the task was cancelled")
        return error_of(CallFailed(Category(self.job.error.category), self.job.error.message))

    def results(self, service: Service) -> list[DataObject]:
        """Return the results of a completed task, as the call itself would have returned them. Raises ModelFailed."""
        value = _any.decode(self.job.result or b"null")
        segments = list(_media(value))
        for one in segments:
            value = put(value, one.path, None)
        result = CallResult(msgspec.json.encode(value), segments, 0.0, 0.0, service.deployment.model.version)
        found = service.collected(result, self._request(service))
        service.rules.cast(found)
        return found

    def _request(self, service: Service) -> ServiceRequest:
        """Return the request as far as it decides how results are written: the attributes that it expects of them."""
        if service.engine is not None:
            parameter = _any.decode(self.job.input).get("parameter", {})
            expected = {name: one for name, one in parameter.items() if isinstance(one, dict)}
        else:
            expected = _expected_in(self.job.tags)
        return ServiceRequest(service=service.name, expected=expected)


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
            tags=_tags(part) if service.engine is None else [],
        )
        # The sender may call the service, and so needs no right to use the queue of its jobs.
        try:
            accepted = await self._submitting.accept_job(request, submission, location="", of_app=True)
        except InvalidInput as error:
            raise in_message(error, _FIELDS) from None
        except IdempotencyConflict:
            if key is None:
                raise
            raise InvalidInput.of("header.task_id", "was used for another request") from None
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


def _tags(part: ServiceRequest) -> list[str]:
    """Return the attributes that a request expects of results as tags of its job. The input of an engine has them."""
    found: list[str] = []
    for result, attributes in part.expected.items():
        for name, value in attributes.items():
            tag = msgspec.json.encode([result, name, value]).decode()
            if len(tag) > _MAX_TAG or "\x7f" in tag:
                raise InvalidInput.of(part.parameter_field(f"{result}.{name}"), "is too long for a task")
            found.append(tag)
    if len(found) > _MAX_TAGS:
        raise InvalidInput.of(f"parameter.{part.service}", f"expects more than {_MAX_TAGS} attributes of a task")
    return found


def _expected_in(tags: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    found: dict[str, dict[str, Scalar]] = {}
    for result, name, value in map(_any.decode, tags):
        found.setdefault(result, {})[name] = value
    return found


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
