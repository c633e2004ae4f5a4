"""Routes that change runs: signals, cancellation, release, moves to other code, retries and reruns."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, UnsetType

from penstock.errors import (
    DatabaseUnavailable,
    Forbidden,
    InvalidInput,
    NotFound,
    PriceMissing,
    QuotaExceeded,
    WrongState,
)
from penstock.flows.http import examples
from penstock.flows.http.base import RUN_ID, RunRoutes, fits
from penstock.flows.service import FlowService
from penstock.flows.views import (
    Move,
    Rerun,
    SignalReply,
)
from penstock.jobs.fields import Name
from penstock.jobs.http.allowed import require_queue
from penstock.jobs.http.submitting import IDEMPOTENCY_KEY, SubmitRoutes
from penstock.jobs.job import Job, JobSubmission
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

_MAX_SIGNAL_BYTES: Final = 64 * 2**10
_rerun = msgspec.json.Decoder(Rerun)
_move = msgspec.json.Decoder(Move)
_payload = msgspec.json.Decoder(Raw)


class ChangeRoutes(RunRoutes):
    """Sends signals to runs; cancels, releases, moves, retries and reruns them."""

    def __init__(self, service: FlowService, submitting: SubmitRoutes) -> None:
        super().__init__(service)
        self._submitting = submitting
        self.sizes = submitting.sizes

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/signal/{name}",
        name="signalRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Send a signal to a run",
        description="The body is the payload, any JSON. Signals are kept as soon as the run exists, and arrive in "
        "order. A signal with an idempotency key arrives once, however often it is sent.",
        path_parameters=(
            RUN_ID,
            PathParameter(name="name", description="the signal's name", subject="signal"),
        ),
        request=Any,
        request_example={"approved": True},
        parameters=(IDEMPOTENCY_KEY,),
        responses={200: ResponseSpec(description="Stored", type=SignalReply, example={"id": 1, "repeated": False})},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
        max_body_bytes=_MAX_SIGNAL_BYTES,
    )
    async def signal(self, request: Request) -> Response:
        run_id, name = request.path_id(), request.path("name")
        payload = await request.read(_payload)
        if not fits(name, Name):
            raise InvalidInput.of("name", "must have 1 to 200 characters, none of them a control character")
        key = request.header(b"idempotency-key")
        if key is not None and not fits(key, Name):
            raise InvalidInput.of("Idempotency-Key", "must have 1 to 200 characters, none of them a control character")
        await self.readable(request, run_id)
        return json_response(await self._service.signal(request.principal.tenant, run_id, name, payload, key=key))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/cancel",
        name="cancelRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Request that a run stop, or end it by force",
        description="The code of the run receives a cancellation and may clean up. The request can be repeated. With "
        "`force` the run ends at once: its code is not executed again, and its jobs are cancelled.",
        path_parameters=(RUN_ID,),
        parameters=(Parameter(name="force", type=bool, description="end it at once"),),
        responses={200: ResponseSpec(description="The run", type=Job, example=examples.RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def cancel(self, request: Request) -> Response:
        run_id = request.path_id()
        force = _flag(request.query({"force": False}), "force")
        await self.readable(request, run_id)
        return json_response(await self._service.cancel(request.principal.tenant, run_id, force=force))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/release",
        name="releaseRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Release a held run",
        description="A run is held when its code has changed or is broken. It also continues by itself once a "
        "runner has different code for its version.",
        path_parameters=(RUN_ID,),
        responses={200: ResponseSpec(description="The run", type=Job, example=examples.RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def release(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self.readable(request, run_id)
        return json_response(await self._service.release(request.principal.tenant, run_id))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/move",
        name="moveRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Continue a run with the code of another version",
        description="For a run that waits, or is held, or whose version no runner has. The other code replays the "
        "history of the run; if it differs, the run is held, and can be moved back.",
        path_parameters=(RUN_ID,),
        request=Move,
        request_example={"version": "2"},
        responses={200: ResponseSpec(description="The run", type=Job, example=examples.RUN)},
        errors=(*BODY_ERRORS, NotFound, Forbidden, WrongState, DatabaseUnavailable),
    )
    async def move(self, request: Request) -> Response:
        run_id = request.path_id()
        wanted = await request.read(_move)
        await self.readable(request, run_id)
        sender = request.principal
        run = await self._service.run(sender.tenant, run_id)
        queue = f"{run.model_profile.rpartition('@')[0]}@{wanted.version}"
        require_queue(sender, "flow", queue)
        return json_response(await self._service.move(sender.tenant, run_id, wanted.version))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/retry",
        name="retryRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Retry a failed run from the step that failed",
        description="The step gets a new job. Completed steps are not executed again.",
        path_parameters=(RUN_ID,),
        responses={200: ResponseSpec(description="The run, pending", type=Job, example=examples.RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def retry(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self.readable(request, run_id)
        return json_response(await self._service.retry(request.principal.tenant, run_id))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/rerun",
        name="rerunRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Rerun a run from a step, as a new run",
        description="The new run reuses what the other did before that step; jobs that have completed do not run "
        "again. Its input may be another.",
        path_parameters=(RUN_ID,),
        request=Rerun,
        request_example={"step": 1},
        responses={201: ResponseSpec(description="The new run", type=Job, example=examples.RUN)},
        errors=(*BODY_ERRORS, NotFound, WrongState, Forbidden, QuotaExceeded, PriceMissing, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def rerun(self, request: Request) -> Response:
        run_id = request.path_id()
        wanted = await request.read(_rerun)
        await self.readable(request, run_id)
        sender = request.principal
        value = None if isinstance(wanted.input, UnsetType) else wanted.input
        run = await self._service.run(sender.tenant, run_id)
        async with self._submitting.within_quotas(request, [_as_submission(run, value)]) as limited:
            job = await self._service.rerun(
                sender.tenant,
                run_id,
                step=wanted.step,
                value=value,
                key_id=sender.key or "",
                counted=limited is not None and limited.counts_jobs,
            )
        limits = [] if limited is None else limited.headers
        return json_response(job, 201, [(b"location", f"/api/v1/flows/runs/{job.id}".encode()), *limits])


def _as_submission(run: Job, value: Raw | None) -> JobSubmission:
    """Return a run that is run again as the submission that it is to quotas."""
    return JobSubmission(
        owner_service=run.owner_service,
        user_id=run.user_id,
        task_type=run.task_type,
        model_profile=run.model_profile,
        input=run.input if value is None else value,
    )


def _flag(query: dict[str, list[str]], name: str) -> bool:
    text = query.get(name, ["false"])[0]
    if text not in {"true", "false"}:
        raise InvalidInput.of(name, "must be true or false")
    return text == "true"
