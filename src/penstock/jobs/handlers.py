"""What each endpoint of jobs does: from a request to the service, and back to a response."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct

from penstock.errors import (
    CallerError,
    InvalidInput,
    TooLarge,
)
from penstock.events.event import Event
from penstock.events.position import Position
from penstock.events.stream import OpenStream
from penstock.jobs import output
from penstock.jobs.job import (
    BatchAnswer,
    BatchCompletion,
    BatchHeartbeat,
    BatchItem,
    BatchSubmission,
    BulkAnswer,
    BulkRequest,
    ClaimAnswer,
    ClaimRequest,
    Completion,
    Created,
    CreatedBatch,
    Failure,
    Heartbeat,
    Job,
    JobCompletion,
    JobFields,
    JobFilter,
    JobHeartbeat,
    JobSubmission,
    ListQuery,
    Name,
    WaitSeconds,
)
from penstock.jobs.queues import Known
from penstock.jobs.service import JobService
from penstock.jobs.sql.store import Queue
from penstock.jobs.states import Status
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.web.body import Disconnected
from penstock.web.reading import check_moment, convert, moment
from penstock.web.request import Request
from penstock.web.response import EventStream, Response, json_response

T = TypeVar("T")
Check = Callable[[JobSubmission, str], None]

_LISTS = frozenset({"status", "tags"})  # filters that may be repeated
FILTERS: dict[str, bool] = {name: name in _LISTS for name in JobFilter.__struct_fields__}
_MOMENTS = ("created_after", "created_before", "finished_after", "finished_before")
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?:$|[,;\s])", re.IGNORECASE)
_LONGEST_WAIT = 60.0

_submission = msgspec.json.Decoder(JobSubmission)
_batch = msgspec.json.Decoder(BatchSubmission)
_bulk = msgspec.json.Decoder(BulkRequest)
_claim = msgspec.json.Decoder(ClaimRequest)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_heartbeats = msgspec.json.Decoder(BatchHeartbeat)
_completion = msgspec.json.Decoder(Completion)
_completions = msgspec.json.Decoder(BatchCompletion)
_failure = msgspec.json.Decoder(Failure)
_key = msgspec.json.Decoder(Name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large what callers send may be, in bytes."""

    input: int = 2**20
    result: int = 16 * 2**20
    batch: int = 64 * 2**20
    one_heartbeat: int = 8 * 2**20  # more than what it may tell, so that what is refused is told why

    @property
    def one_job(self) -> int:
        """A submission: its input, and room for the other fields."""
        return self.input + 64 * 1024

    @property
    def one_result(self) -> int:
        return self.result + 64 * 1024


class JobHandlers:
    """The endpoints, on a service.

    ``check`` gets every submission before anything is written, with the prefix of its fields ("" or "jobs[3].");
    it may raise InvalidInput. It runs on the event loop, so it must be quick. ``known`` returns the model profiles that
    this process knows for a task type. With ``strict_queues`` a job for a queue that nobody has ever served and that is
    not known is refused; without, its submitter is warned.
    """

    def __init__(
        self,
        service: JobService,
        sizes: Sizes | None = None,
        *,
        check: Check | None = None,
        known: Known = lambda _: (),
        strict_queues: bool = False,
    ) -> None:
        self.sizes = sizes or Sizes()
        self._check = check
        self._known = known
        self._strict_queues = strict_queues
        self._service = service

    def _jobs(self, request: Request) -> TenantJobs:
        """Return the jobs of the tenant that sends the request."""
        return self._service.of(request.principal.tenant)

    # Submitting

    async def submit(self, request: Request) -> Response:
        submission = _with_key(await request.read(_submission), request.header(b"idempotency-key"))
        await self._check_submissions(request, [submission], lambda _: "")
        wait = _preferred_wait(request.header(b"prefer"))
        submitted = await self._jobs(request).submit(submission)
        job = submitted.job
        headers = [(b"location", b"/api/v1/jobs/" + str(job.id).encode())]
        status = 201 if submitted.created else 200
        if wait is not None:
            headers.append((b"preference-applied", f"wait={wait:g}".encode()))
            job = await self._wait(request, job.id, wait)
            status = status if job.status.finished else 202
        return json_response(await self._warned(request, job), status, headers)

    async def submit_batch(self, request: Request) -> Response:
        batch = await request.read(_batch)
        submissions = [_merged(batch.defaults, job, index) for index, job in enumerate(batch.jobs)]
        await self._check_submissions(request, submissions, lambda index: f"jobs[{index}].")
        submitted = await self._jobs(request).submit_many(submissions)
        created = [
            Created(id=one.job.id, status=one.job.status, created=one.created, created_at=one.job.created_at)
            for one in submitted
        ]
        queues = [_queue(one.job) for one in submitted if _waits(one.job)]
        warnings = await self._jobs(request).queues.warnings(queues, self._known)
        return json_response(CreatedBatch(jobs=created, warnings=warnings), 201)

    # Reading

    async def get(self, request: Request) -> Response:
        job_id = request.path_id()
        query = request.query({"wait": False})
        if "wait" not in query:
            return json_response(await self._warned(request, await self._jobs(request).get(job_id)))
        wait = _number(query["wait"][0], "wait", WaitSeconds)
        return json_response(await self._warned(request, await self._wait(request, job_id, wait)))

    async def list_jobs(self, request: Request) -> Response:
        query = request.query({**FILTERS, "limit": False, "cursor": False})
        wanted = convert(_values(query), ListQuery)
        where = filter_of(query)
        return json_response(await self._jobs(request).list(where, limit=wanted.limit, cursor=wanted.cursor))

    async def stats(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._jobs(request).stats())

    async def job_events(self, request: Request) -> Response | EventStream:
        return await self._events(request, request.path_id())

    async def events(self, request: Request) -> Response | EventStream:
        return await self._events(request, None)

    # Working

    async def claim(self, request: Request) -> Response:
        wanted = await request.read(_claim)
        claiming = self._jobs(request).claim(wanted)
        jobs = await request.unless_left(claiming) if wanted.wait_seconds else await claiming
        if jobs and await request.gone():
            self._jobs(request).hand_back(jobs)
            raise Disconnected
        return json_response(ClaimAnswer(jobs=jobs or []))

    async def heartbeat(self, request: Request) -> Response:
        job_id = request.path_id()
        beat = await request.read(_heartbeat)
        output.check(beat)
        (told,) = await self._jobs(request).heartbeat([_of_job(JobHeartbeat, job_id, beat)])
        if isinstance(told, CallerError):
            raise told
        return json_response(told)

    async def heartbeat_many(self, request: Request) -> Response:
        beats = (await request.read(_heartbeats)).jobs
        for index, beat in enumerate(beats):
            output.check(beat, f"jobs[{index}].")
        told = await self._jobs(request).heartbeat(beats)
        items = [
            _refused(beat.id, one)
            if isinstance(one, CallerError)
            else BatchItem(id=beat.id, lease_expires_at=one.lease_expires_at, cancel_requested=one.cancel_requested)
            for beat, one in zip(beats, told, strict=True)
        ]
        return json_response(BatchAnswer(results=items))

    async def complete(self, request: Request) -> Response:
        job_id = request.path_id()
        completion = await request.read(_completion)
        self._check_result(completion.result, "result")
        return json_response(await self._jobs(request).complete(_of_job(JobCompletion, job_id, completion)))

    async def complete_many(self, request: Request) -> Response:
        completions = (await request.read(_completions)).jobs
        for index, completion in enumerate(completions):
            self._check_result(completion.result, f"jobs[{index}].result")
        told = await self._jobs(request).complete_many(completions)
        items = [
            _refused(done.id, one) if isinstance(one, CallerError) else BatchItem(id=done.id, status=one.status)
            for done, one in zip(completions, told, strict=True)
        ]
        return json_response(BatchAnswer(results=items))

    async def fail(self, request: Request) -> Response:
        job_id = request.path_id()
        return json_response(await self._jobs(request).fail(job_id, await request.read(_failure)))

    # Changing one's mind

    async def retry(self, request: Request) -> Response:
        return json_response(await self._jobs(request).retry(request.path_id()))

    async def cancel(self, request: Request) -> Response:
        return json_response(await self._jobs(request).cancel(request.path_id()))

    async def retry_where(self, request: Request) -> Response:
        where, dry_run = _bulk_filter(await request.read(_bulk))
        count = await self._jobs(request).retry_where(where, dry_run=dry_run)
        return json_response(BulkAnswer(count=count, dry_run=dry_run))

    async def cancel_where(self, request: Request) -> Response:
        where, dry_run = _bulk_filter(await request.read(_bulk))
        count = await self._jobs(request).cancel_where(where, dry_run=dry_run)
        return json_response(BulkAnswer(count=count, dry_run=dry_run))

    # Inside

    async def _check_submissions(
        self, request: Request, submissions: Sequence[JobSubmission], prefix: Callable[[int], str]
    ) -> None:
        """Raise InvalidInput or TooLarge for the first submission that cannot be accepted."""
        for index, submission in enumerate(submissions):
            at = prefix(index)
            if len(bytes(submission.input)) > self.sizes.input:
                raise TooLarge(
                    f"{at}input has {len(bytes(submission.input))} bytes; at most {self.sizes.input} are allowed"
                )
            check_moment(submission.run_at, f"{at}run_at")
            _check_expiry(submission, at)
            if self._check is not None:
                self._check(submission, at)
        if self._strict_queues:
            queues = [(submission.task_type, submission.model_profile) for submission in submissions]
            await self._jobs(request).queues.check(queues, self._known, lambda index: f"{prefix(index)}model_profile")

    async def _warned(self, request: Request, job: Job) -> Job:
        """Return the job with warnings, if it waits for a worker that may not exist."""
        if not _waits(job):
            return job
        warnings = await self._jobs(request).queues.warnings([_queue(job)], self._known)
        return msgspec.structs.replace(job, warnings=warnings) if warnings else job

    async def _wait(self, request: Request, job_id: UUID, seconds: float) -> Job:
        waited = await request.unless_left(self._jobs(request).wait(job_id, timedelta(seconds=seconds)))
        return waited or await self._jobs(request).get(job_id)

    async def _events(self, request: Request, job_id: UUID | None) -> Response | EventStream:
        stated = {
            "Last-Event-ID": request.header(b"last-event-id"),
            "after": request.query({"after": False}).get("after", [""])[0],
        }
        positions = [Position.parse(text, field) for field, text in stated.items() if text]
        position = positions[0] if positions else None
        if job_id is not None:
            await self._jobs(request).get(job_id)
            if position is not None and await self._jobs(request).events_over(job_id, position):
                return Response(status=204)  # tells an EventSource not to come back
        events = await self._jobs(request).events(job_id=job_id, after=position)
        return EventStream(chunks=_as_chunks(events))

    def _check_result(self, value: Raw, field: str) -> None:
        if len(bytes(value)) > self.sizes.result:
            raise TooLarge(f"{field} has {len(bytes(value))} bytes; at most {self.sizes.result} are allowed")


def filter_of(query: Mapping[str, Sequence[str]]) -> JobFilter:
    """The filter that query parameters state, among others; raises InvalidInput."""
    return convert(_values({name: value for name, value in query.items() if name in FILTERS}), JobFilter)


def _values(query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        name: [part for one in value for part in one.split(",") if part]
        if name in _LISTS
        else moment(value[0], name)
        if name in _MOMENTS
        else value[0]
        for name, value in query.items()
    }


def _queue(job: Job) -> Queue:
    return (job.task_type, job.model_profile)


def _waits(job: Job) -> bool:
    """Whether no worker has taken the job yet."""
    return job.status is Status.PENDING and job.attempt == 0


def _check_expiry(submission: JobSubmission, prefix: str) -> None:
    """Raise InvalidInput for an expiry that contradicts another field."""
    expires_at = submission.expires_at
    if expires_at is None:
        return
    check_moment(expires_at, f"{prefix}expires_at")
    if submission.ttl_seconds is not None:
        raise InvalidInput.of(f"{prefix}ttl_seconds", "does not go with expires_at: state one of them")
    if submission.run_at is not None and expires_at <= submission.run_at:
        raise InvalidInput.of(f"{prefix}expires_at", "must be after run_at")


def _with_key(submission: JobSubmission, header: str | None) -> JobSubmission:
    """The submission with the key of the ``Idempotency-Key`` header."""
    if header is None:
        return submission
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header  # RFC 8941 strings are quoted
    try:
        key = msgspec.convert(key, Name)
    except msgspec.ValidationError:
        raise InvalidInput.of(
            "Idempotency-Key", "must have 1 to 200 characters, none of them a control character"
        ) from None
    if submission.idempotency_key not in {None, key}:
        raise InvalidInput.of("idempotency_key", "must equal the Idempotency-Key header")
    return msgspec.structs.replace(submission, idempotency_key=key)


def _preferred_wait(header: str | None) -> float | None:
    """The seconds of ``Prefer: wait=N``, 60 at most; None when there is no such preference."""
    found = _PREFER_WAIT.search(header) if header else None
    return min(float(found[1]), _LONGEST_WAIT) if found else None


def _merged(defaults: JobFields, job: JobFields, index: int) -> JobSubmission:
    """A job of a batch with the batch's defaults filled in; raises InvalidInput for what is missing."""
    values: dict[str, Any] = {}
    for name in JobFields.__struct_fields__:
        value = getattr(job, name)
        if value is UNSET:
            value = getattr(defaults, name)
        if value is not UNSET:
            values[name] = value
    for name in ("owner_service", "task_type", "model_profile"):
        if name not in values:
            raise InvalidInput.of(f"jobs[{index}].{name}", "is required, here or in defaults")
    return JobSubmission(**values)


def _of_job(kind: Callable[..., T], job_id: UUID, report: Struct) -> T:
    """A report about one job as the same report that names its job."""
    return kind(id=job_id, **{name: getattr(report, name) for name in report.__struct_fields__})


def _refused(job_id: UUID, error: CallerError) -> BatchItem:
    """An error of one item; what is wrong is said where the code does not tell it."""
    return BatchItem(id=job_id, code=error.code, detail=error.message if isinstance(error, InvalidInput) else None)


def _bulk_filter(request: BulkRequest) -> tuple[JobFilter, bool]:
    stated = {name: getattr(request, name) for name in JobFilter.__struct_fields__}
    for name in _LISTS:
        if isinstance(stated[name], str):
            stated[name] = [stated[name]]
    if isinstance(request.tags, str):
        convert({"tags": stated["tags"]}, JobFilter)
    where = JobFilter(**stated)
    if where == JobFilter():
        raise InvalidInput.of("body", f"needs at least one filter: {', '.join(JobFilter.__struct_fields__)}")
    for name in _MOMENTS:
        check_moment(getattr(where, name), name)
    return where, request.dry_run


def _number(text: str, name: str, kind: Any) -> float:
    try:
        return float(msgspec.convert(text, kind, strict=False))
    except (msgspec.ValidationError, ValueError):
        raise InvalidInput.of(name, "must be a number of seconds from 0 to 60") from None


async def _as_chunks(events: OpenStream) -> AsyncIterator[bytes]:
    """Events as server-sent events, each a CloudEvent in structured mode.

    The position where the stream begins comes first, as an id without an event: a reader whose connection breaks before
    the first event resumes there.
    """
    yield b"id: %b\n\n" % str(events.start).encode()
    async with aclosing(events):
        async for event in events:
            yield _as_chunk(event)


def _as_chunk(event: Event) -> bytes:
    cloud: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "datacontenttype": "application/json",
        "data": event.data,
    }
    if event.subject is not None:
        cloud["subject"] = str(event.subject)
    if event.time is not None:
        cloud["time"] = event.time
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), msgspec.json.encode(cloud))
