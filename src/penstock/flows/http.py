"""The routes of flows and runs."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw, UnsetType

from penstock.errors import (
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TooLarge,
    WrongState,
)
from penstock.flows.service import FlowService
from penstock.flows.views import (
    FlowList,
    FlowName,
    FlowRequest,
    Move,
    Rerun,
    RunPage,
    RunTree,
    SignalReply,
    StoredHistory,
)
from penstock.jobs.fields import Name
from penstock.jobs.filters import JobFilter
from penstock.jobs.http import examples as job_examples
from penstock.jobs.http.allowed import may_use, reads, require_queue
from penstock.jobs.http.submitting import IDEMPOTENCY_KEY, PREFER, SubmitRoutes
from penstock.jobs.job import Job, JobSummary
from penstock.jobs.states import Status
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

_RUN_ID: Final = PathParameter(name="id", type=UUID, description="the run's id", subject="run")
_MAX_SIGNAL_BYTES: Final = 2**20
_request = msgspec.json.Decoder(FlowRequest)
_rerun = msgspec.json.Decoder(Rerun)
_move = msgspec.json.Decoder(Move)
_payload = msgspec.json.Decoder(Raw)

_RUN: Final[dict[str, Any]] = job_examples.JOB | {"task_type": "flow", "model_profile": "greeting@1"}
_FLOWS: Final[dict[str, Any]] = {
    "flows": [
        {
            "name": "greeting",
            "version": "1",
            "description": "Greets.",
            "input_schema": {"type": "object"},
            "output_schema": {"type": "string"},
            "examples": [{"name": "Ada"}],
            "alive": True,
            "unfinished": 1,
        }
    ],
    "stranded": [],
}

_TREE: Final[dict[str, Any]] = {
    "run": {name: value for name, value in _RUN.items() if name in JobSummary.__struct_fields__},
    "input": {"name": "Ada"},
    "result": None,
    "difference": None,
    "turns": 1,
    "steps": [
        {
            "no": 0,
            "key": "greeter#1",
            "kind": "call",
            "name": "greeter",
            "status": "running",
            "job_id": "0194b7a0-0000-7000-8000-000000000001",
            "issued_at": "2026-01-30T09:00:01.000000Z",
            "started_at": "2026-01-30T09:00:01.500000Z",
            "attempt": 1,
        }
    ],
    "next_step": None,
}


_HISTORY: Final[dict[str, Any]] = {
    "ended": False,
    "history": {
        "run_id": _RUN["id"],
        "flow": "greeting",
        "version": "1",
        "loop": 1,
        "input": {"name": "Ada"},
        "started_at": 1769763600.5,
        "turns": [{"number": 0, "at": 1769763600.5, "first_no": 0}],
        "steps": [
            {"no": 0, "key": "greeter#1", "kind": "call", "name": "greeter", "input_hash": "AAAAAAAAAAAAAAAAAAAAAA=="}
        ],
        "mail": [],
    },
}


class _List(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of the list of runs."""

    flow: str | None = None
    status: Status | None = None
    owner_service: str | None = None
    owner_ref: str | None = None
    user_id: str | None = None
    held: bool = False
    stranded: bool = False
    limit: int = 50
    cursor: str | None = None


class FlowRoutes:
    """Lists flows, starts runs, and shows and changes them."""

    def __init__(self, service: FlowService, submitting: SubmitRoutes) -> None:
        self._service = service
        self._submitting = submitting
        self.sizes = submitting.sizes

    @route(
        "GET",
        "/api/v1/flows",
        name="listFlows",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="List the flows that runners have, and runs of versions that none has",
        responses={200: ResponseSpec(description="The flows", type=FlowList, example=_FLOWS)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_flows(self, request: Request) -> Response:
        request.query({})
        sender = request.principal
        found = await self._service.flows(sender.tenant)
        flows = [one for one in found.flows if may_use(sender, "flow", f"{one.name}@{one.version}")]
        return json_response(msgspec.structs.replace(found, flows=flows))

    @route(
        "POST",
        "/api/v1/flows/{name}",
        name="startFlow",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Start a run of a flow",
        description="The input is checked by the schema of the flow. Without a version, the run gets the one that was "
        "published last of those that a runner has now. With an idempotency key the same request starts one run, "
        "however often it is sent. The run is a job: its state, result and events are read as those of any job.",
        path_parameters=(PathParameter(name="name", description="the flow's name", subject="flow"),),
        request=FlowRequest,
        request_example={"input": {"name": "Ada"}},
        parameters=(IDEMPOTENCY_KEY, PREFER),
        responses={
            201: ResponseSpec(description="Started; with `Prefer: wait` finished too", type=Job, example=_RUN),
            200: ResponseSpec(description="The same request was sent before; this is its run", type=Job, example=_RUN),
            202: ResponseSpec(
                description="Started, but not finished within the time of `Prefer: wait`", type=Job, example=_RUN
            ),
        },
        errors=(*BODY_ERRORS, NotFound, Forbidden, IdempotencyConflict, QuotaExceeded, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def start(self, request: Request) -> Response:
        given = await request.read(_request)
        name = request.path("name")
        if not _is(name, FlowName):
            raise NotFound(f"there is no flow {name[:100]!r}")
        submission = await self._service.submission(name, given)
        return await self._submitting.accept(request, submission, location="/api/v1/flows/runs/")

    @route(
        "GET",
        "/api/v1/flows/runs",
        name="listRuns",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="List runs, newest first",
        parameters=(
            Parameter(name="flow", type=str, description="of this flow, as name@version"),
            Parameter(name="status", type=str, description="in this state"),
            Parameter(name="owner_service", type=str, description="of this owner"),
            Parameter(name="owner_ref", type=str, description="about this reference"),
            Parameter(name="user_id", type=str, description="of this end user"),
            Parameter(name="held", type=bool, description="that are held, because their code cannot go on"),
            Parameter(name="stranded", type=bool, description="of versions that no runner has"),
            Parameter(name="limit", type=int, description="the most runs of a page, up to 1000"),
            Parameter(name="cursor", type=str, description="`next_cursor` of the page before"),
        ),
        responses={200: ResponseSpec(description="A page", type=RunPage, example={"runs": [], "next_cursor": None})},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_runs(self, request: Request) -> Response:
        wanted = request.query_as(_List)
        if not 1 <= wanted.limit <= 1000:
            raise InvalidInput.of("limit", "must be from 1 to 1000")
        where = JobFilter(
            model_profile=wanted.flow,
            status=None if wanted.status is None else [wanted.status],
            owner_service=wanted.owner_service,
            owner_ref=wanted.owner_ref,
            user_id=wanted.user_id,
        )
        sender = request.principal
        page = await self._service.list(
            sender.tenant, where, held=wanted.held, stranded=wanted.stranded, limit=wanted.limit, cursor=wanted.cursor
        )
        runs = [run for run in page.runs if may_use(sender, run.task_type, run.model_profile)]
        return json_response(msgspec.structs.replace(page, runs=runs))

    @route(
        "GET",
        "/api/v1/flows/runs/{id}",
        name="getRun",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="Read a run with its steps; a map is one step with counts",
        path_parameters=(_RUN_ID,),
        parameters=(
            Parameter(name="from", type=int, description="the number of the first step of the page"),
            Parameter(name="limit", type=int, description="the most steps of a page, up to 1000"),
        ),
        responses={200: ResponseSpec(description="The run", type=RunTree, example=_TREE)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        run_id = request.path_id()
        query = request.query({"from": False, "limit": False})
        await self._readable(request, run_id)
        tree = await self._service.tree(
            request.principal.tenant,
            run_id,
            from_no=_number(query, "from", 0, low=0, high=2**31 - 1),
            limit=_number(query, "limit", 200, low=1, high=1000),
        )
        return json_response(tree)

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/signal/{name}",
        name="signalRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Send a signal to a run",
        description="The body is the payload, any JSON. Signals are kept from the creation of the run on, and come in "
        "order. With an idempotency key the same signal comes once.",
        path_parameters=(
            _RUN_ID,
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
        if not _is(name, Name):
            raise InvalidInput.of("name", "must have 1 to 200 characters, none of them a control character")
        key = request.header(b"idempotency-key")
        if key is not None and not _is(key, Name):
            raise InvalidInput.of("Idempotency-Key", "must have 1 to 200 characters, none of them a control character")
        await self._readable(request, run_id)
        return json_response(await self._service.signal(request.principal.tenant, run_id, name, payload, key=key))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/cancel",
        name="cancelRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Request that a run stop, or end it by force",
        description="The code of the run gets a cancellation and may clean up. It can be repeated. With `force` the "
        "run ends at once, its code is not executed any more, and its jobs are cancelled.",
        path_parameters=(_RUN_ID,),
        parameters=(Parameter(name="force", type=bool, description="end it at once"),),
        responses={200: ResponseSpec(description="The run", type=Job, example=_RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def cancel(self, request: Request) -> Response:
        run_id = request.path_id()
        force = _flag(request.query({"force": False}), "force")
        await self._readable(request, run_id)
        return json_response(await self._service.cancel(request.principal.tenant, run_id, force=force))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/release",
        name="releaseRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Let a held run go on",
        description="A run is held when its code has changed or is broken. It goes on by itself when a runner has "
        "other code of its version.",
        path_parameters=(_RUN_ID,),
        responses={200: ResponseSpec(description="The run", type=Job, example=_RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def release(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self._readable(request, run_id)
        return json_response(await self._service.release(request.principal.tenant, run_id))

    @route(
        "GET",
        "/api/v1/flows/runs/{id}/history",
        name="getRunHistory",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="Read the whole history of a run, with which code can be checked",
        description="It has the input and the results. `penstock flow check` replays it with code of another machine.",
        path_parameters=(_RUN_ID,),
        responses={200: ResponseSpec(description="The history", type=StoredHistory, example=_HISTORY)},
        errors=(InvalidInput, NotFound, TooLarge, DatabaseUnavailable),
    )
    async def history(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self._readable(request, run_id)
        return json_response(await self._service.history(request.principal.tenant, run_id))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/move",
        name="moveRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Continue a run with the code of another version",
        description="For a run that waits, or is held, or whose version no runner has. The other code replays the "
        "history of the run; if it differs, the run is held, and can be moved back.",
        path_parameters=(_RUN_ID,),
        request=Move,
        request_example={"version": "2"},
        responses={200: ResponseSpec(description="The run", type=Job, example=_RUN)},
        errors=(*BODY_ERRORS, NotFound, Forbidden, WrongState, DatabaseUnavailable),
    )
    async def move(self, request: Request) -> Response:
        run_id = request.path_id()
        wanted = await request.read(_move)
        await self._readable(request, run_id)
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
        summary="Let a failed run go on from the step that failed",
        description="The step gets a new job. Steps that have completed are not executed again.",
        path_parameters=(_RUN_ID,),
        responses={200: ResponseSpec(description="The run, pending", type=Job, example=_RUN)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def retry(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self._readable(request, run_id)
        return json_response(await self._service.retry(request.principal.tenant, run_id))

    @route(
        "POST",
        "/api/v1/flows/runs/{id}/rerun",
        name="rerunRun",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Run a run again from a step, as a new run",
        description="The new run reuses what the other did before that step; jobs that have completed do not run "
        "again. Its input may be another.",
        path_parameters=(_RUN_ID,),
        request=Rerun,
        request_example={"step": 1},
        responses={201: ResponseSpec(description="The new run", type=Job, example=_RUN)},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def rerun(self, request: Request) -> Response:
        run_id = request.path_id()
        wanted = await request.read(_rerun)
        await self._readable(request, run_id)
        sender = request.principal
        value = None if isinstance(wanted.input, UnsetType) else wanted.input
        job = await self._service.rerun(sender.tenant, run_id, step=wanted.step, value=value, key_id=sender.key or "")
        return json_response(job, 201, [(b"location", f"/api/v1/flows/runs/{job.id}".encode())])

    async def _readable(self, request: Request, run_id: UUID) -> None:
        """Raise NotFound for a run of a flow that the sender's key may not use."""
        run = await self._service.run(request.principal.tenant, run_id)
        if not reads(request.principal, run):
            raise NotFound(f"there is no run {run_id}")


def _number(query: dict[str, list[str]], name: str, default: int, *, low: int, high: int) -> int:
    if name not in query:
        return default
    text = query[name][0]
    found = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not low <= found <= high:
        raise InvalidInput.of(name, f"must be a number from {low} to {high}")
    return found


def _is(text: str, kind: Any) -> bool:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


def _flag(query: dict[str, list[str]], name: str) -> bool:
    text = query.get(name, ["false"])[0]
    if text not in {"true", "false"}:
        raise InvalidInput.of(name, "must be true or false")
    return text == "true"
