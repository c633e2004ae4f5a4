"""Submit jobs, one or many."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from penstock.errors import (
    CallerError,
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    PriceMissing,
    QuotaExceeded,
    TooLarge,
)
from penstock.jobs.callbacks import check_callback
from penstock.jobs.fields import APP_OWNER, Name
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import require_queue
from penstock.jobs.http.base import ExplainTo, JobRoutes, KnownTo, Sizes, queue_of, waits
from penstock.jobs.job import BatchSubmission, Created, CreatedBatch, Job, JobFields, JobSubmission, Submitted
from penstock.jobs.service import JobService
from penstock.quotas.admission import Limited, Quotas
from penstock.tenants import scopes
from penstock.tenants.principal import Principal
from penstock.web.reading import BODY_ERRORS, check_moment
from penstock.web.request import Request
from penstock.web.response import Headers, Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?:$|[,;\s])", re.IGNORECASE)

_LONGEST_WAIT = 60.0

_submission = msgspec.json.Decoder(JobSubmission)

_batch = msgspec.json.Decoder(BatchSubmission)

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key", type=Name, description="the same as `idempotency_key` in the body", place="header"
)

PREFER = Parameter(
    name="Prefer",
    type=str,
    description="`wait=N`: respond when the job has finished, after N ≤ 60 seconds at the latest",
    place="header",
)

Check = Callable[[JobSubmission, str, Principal], None]


Refusal = InvalidInput | TooLarge  # of an input


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job that a request has submitted, perhaps with an earlier try, and the headers of the response."""

    job: Job
    created: bool
    waited: bool  # the request preferred to wait for its end
    headers: Headers


class SubmitRoutes(JobRoutes):
    """Accepts submissions of jobs.

    ``check`` gets every submission before anything is written, with the prefix of its fields ("" or "jobs[3].") and the
    sender; it may raise InvalidInput and Forbidden. It runs on the event loop, so it must be quick. Then ``quotas``
    admit the jobs; if one of them limits cost, ``require_price`` gets each submission and may raise PriceMissing, and
    if one limits tokens strictly, ``require_no_tokens`` does and may raise Forbidden. If no worker has ever served a
    job's queue and this process does not know it, the job is refused with ``strict_queues``; otherwise the response has
    a warning.
    """

    def __init__(
        self,
        service: JobService,
        *,
        sizes: Sizes | None = None,
        known: KnownTo = lambda _, __: (),
        explain: ExplainTo = lambda _, __: None,
        check: Check | None = None,
        require_price: Check | None = None,
        require_no_tokens: Check | None = None,
        quotas: Quotas,
        strict_queues: bool = False,
    ) -> None:
        super().__init__(service, sizes=sizes, known=known, explain=explain)
        self._quotas = quotas
        self._check = check
        self._require_price = require_price
        self._require_no_tokens = require_no_tokens
        self._strict_queues = strict_queues

    @route(
        "POST",
        "/api/v1/jobs",
        name="submitJob",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Create a job",
        description="With an idempotency key the same request creates one job, however often it is sent.",
        request=JobSubmission,
        request_example=examples.SUBMISSION,
        parameters=(IDEMPOTENCY_KEY, PREFER),
        responses={
            201: ResponseSpec(description="Created; with `Prefer: wait` finished too", type=Job, example=examples.JOB),
            200: ResponseSpec(
                description="The same request was sent before; this is its job", type=Job, example=examples.DONE
            ),
            202: ResponseSpec(
                description="Created, but not finished within the time of `Prefer: wait`",
                type=Job,
                example=examples.JOB,
            ),
        },
        errors=(*BODY_ERRORS, Forbidden, IdempotencyConflict, QuotaExceeded, PriceMissing, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def submit(self, request: Request) -> Response:
        return await self.accept(request, await request.read(_submission), location="/api/v1/jobs/")

    async def accept(
        self, request: Request, submission: JobSubmission, *, location: str, refusal: Refusal | None = None
    ) -> Response:
        """Submit one job with the headers of the request, and wait for it if they say so; return the response."""
        accepted = await self.accept_job(request, submission, location=location, refusal=refusal)
        status = 201 if accepted.created else 200
        if accepted.waited and not accepted.job.status.finished:
            status = 202
        return json_response(await self.warned(request, accepted.job), status, accepted.headers)

    async def accept_job(
        self,
        request: Request,
        submission: JobSubmission,
        *,
        location: str,
        of_app: bool = False,
        refusal: Refusal | None = None,
    ) -> Accepted:
        """Do the same, but return the job. The request of an app needs no right to use the queue of its flow.

        An input that is refused, here or by the caller (``refusal``), may have been accepted when the same request was
        sent before, since schemas and limits change: then the job of that request is returned.
        """
        submission = _with_key(submission, request.header(b"idempotency-key"))
        submission = _with_user(submission, request.principal)
        if not of_app:
            _require_rights(request.principal, submission, "")
        limits: Headers = []
        try:
            if refusal is not None:
                raise refusal
            await self._check_submissions(request, [submission], lambda _: "")
        except (InvalidInput, TooLarge) as error:
            submitted = await self._sent_before(request, submission, error)
        else:
            (submitted,), limits = await self._submit(request, [submission])
        wait = _preferred_wait(request.header(b"prefer"))
        job = submitted.job
        headers = [(b"location", f"{location}{job.id}".encode()), *limits]
        if wait is not None:
            headers.append((b"preference-applied", f"wait={wait:g}".encode()))
            job = await self.wait(request, job.id, wait)
        return Accepted(job=job, created=submitted.created, waited=wait is not None, headers=headers)

    async def _sent_before(self, request: Request, submission: JobSubmission, refusal: Refusal) -> Submitted:
        """Return the job of an earlier request with the same key and content; raises ``refusal`` if there is none."""
        key = submission.idempotency_key
        found = None if key is None else await self.jobs(request).submitted_before(submission)
        if found is None:
            raise refusal
        return Submitted(job=found, created=False)

    @route(
        "POST",
        "/api/v1/jobs/batch",
        name="submitJobs",
        tag="Jobs",
        scope=scopes.JOBS_SUBMIT,
        summary="Create many jobs with shared defaults, all or nothing",
        request=BatchSubmission,
        request_example=examples.BATCH,
        responses={
            201: ResponseSpec(description="In the order of the request", type=CreatedBatch, example=examples.CREATED)
        },
        errors=(*BODY_ERRORS, Forbidden, IdempotencyConflict, QuotaExceeded, PriceMissing, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.batch,
    )
    async def submit_batch(self, request: Request) -> Response:
        batch = await request.read(_batch)
        submissions = [
            _with_user(_merged(batch.defaults, job, index), request.principal) for index, job in enumerate(batch.jobs)
        ]
        for index, submission in enumerate(submissions):
            _require_rights(request.principal, submission, f"jobs[{index}].")
        await self._check_submissions(request, submissions, lambda index: f"jobs[{index}].")
        submitted, limits = await self._submit(request, submissions)
        created = [
            Created(id=one.job.id, status=one.job.status, created=one.created, created_at=one.job.created_at)
            for one in submitted
        ]
        queues = [queue_of(one.job) for one in submitted if waits(one.job)]
        warnings = await self.warnings(request, queues)
        return json_response(CreatedBatch(jobs=created, warnings=warnings), 201, limits)

    async def _submit(
        self, request: Request, submissions: Sequence[JobSubmission]
    ) -> tuple[Sequence[Submitted], Headers]:
        """Create jobs within the quotas; returns them, and the headers with the state of the quotas.

        Jobs that existed already cost nothing.
        """
        if not self._quotas.concern(request.principal):
            return await self._create(request, submissions), []
        async with self.within_quotas(request, submissions) as limited:
            if limited is None:
                return await self._create(request, submissions), []
            submitted = await self._create(request, submissions, counted=limited.counts_jobs)
            if there_already := [one.job.user_id or "" for one in submitted if not one.created]:
                limited.admission.give_back(there_already)
        return submitted, limited.headers

    @asynccontextmanager
    async def within_quotas(
        self, request: Request, submissions: Sequence[JobSubmission]
    ) -> AsyncIterator[Limited | None]:
        """Reserve jobs, and count them if the block creates them; None if no quota concerns them.

        If the database is lost meanwhile, or the request is cancelled, they may have been created, so they count.
        Raises QuotaExceeded, PriceMissing or Forbidden.
        """
        limited = None
        if self._quotas.concern(request.principal):
            limited = await self._quotas.admit_jobs(request.principal, [one.user_id or "" for one in submissions])
        if limited is None:
            yield None
            return
        admission = limited.admission
        try:
            self._check_limited(request, submissions, limited)
            yield limited
            admission.settle()
        except CallerError:
            raise
        except BaseException:
            admission.settle()
            raise
        finally:
            admission.end()

    def _check_limited(self, request: Request, submissions: Sequence[JobSubmission], limited: Limited) -> None:
        """Raise PriceMissing or Forbidden for the first submission that the quotas do not allow at all."""
        checks = (self._require_price if limited.costs else None, self._require_no_tokens if limited.strict else None)
        for check in checks:
            if check is not None:
                for index, submission in enumerate(submissions):
                    prefix = "" if len(submissions) == 1 else f"jobs[{index}]."
                    check(submission, prefix, request.principal)

    async def _create(
        self, request: Request, submissions: Sequence[JobSubmission], *, counted: bool = False
    ) -> Sequence[Submitted]:
        jobs, key_id = self.jobs(request), request.principal.key or ""
        if len(submissions) == 1:
            return [await jobs.submit(submissions[0], key_id=key_id, counted=counted)]
        return await jobs.submit_many(submissions, key_id=key_id, counted=counted)

    async def _check_submissions(
        self,
        request: Request,
        submissions: Sequence[JobSubmission],
        prefix: Callable[[int], str],
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
            if submission.callback is not None:
                check_callback(self._service.callbacks, submission.callback, f"{at}callback")
            if self._check is not None:
                self._check(submission, at, request.principal)
        if self._strict_queues:
            queues = [(submission.task_type, submission.model_profile) for submission in submissions]
            known = self.known_to(request.principal)
            await self.jobs(request).queues.check(queues, known, lambda index: f"{prefix(index)}model_profile")


def _require_rights(principal: Principal, submission: JobSubmission, prefix: str) -> None:
    """Raise InvalidInput or Forbidden unless the sender may submit jobs of this owner and this queue."""
    if submission.owner_service.startswith(APP_OWNER):
        detail = f"must not begin with {APP_OWNER}: jobs of apps are started by calling the app"
        raise InvalidInput.of(f"{prefix}owner_service", detail)
    require_queue(principal, submission.task_type, submission.model_profile, prefix=prefix)


def _check_expiry(submission: JobSubmission, prefix: str) -> None:
    """Raise InvalidInput for an expiry that contradicts another field."""
    expires_at = submission.expires_at
    if expires_at is None:
        return
    check_moment(expires_at, f"{prefix}expires_at")
    if submission.ttl_seconds is not None:
        raise InvalidInput.of(f"{prefix}ttl_seconds", "cannot be combined with expires_at: state one of them")
    if submission.run_at is not None and expires_at <= submission.run_at:
        raise InvalidInput.of(f"{prefix}expires_at", "must be after run_at")


def _with_key(submission: JobSubmission, header: str | None) -> JobSubmission:
    """Return the submission with the key from the ``Idempotency-Key`` header."""
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


def _with_user(submission: JobSubmission, principal: Principal) -> JobSubmission:
    """Return the submission with the principal's user, if it names none."""
    if submission.user_id or principal.user is None:
        return submission
    return msgspec.structs.replace(submission, user_id=principal.user)


def _preferred_wait(header: str | None) -> float | None:
    """Return the seconds in ``Prefer: wait=N``, 60 at most; None when there is no such preference."""
    found = _PREFER_WAIT.search(header) if header else None
    return min(float(found[1]), _LONGEST_WAIT) if found else None


def _merged(defaults: JobFields, job: JobFields, index: int) -> JobSubmission:
    """Return a job of a batch with the batch's defaults filled in; raises InvalidInput for a missing field."""
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
