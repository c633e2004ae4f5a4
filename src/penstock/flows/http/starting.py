"""Routes that list flows and start runs."""

from __future__ import annotations

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    QuotaExceeded,
)
from penstock.flows.http import examples
from penstock.flows.http.base import fits
from penstock.flows.service import FlowService
from penstock.flows.views import (
    FlowList,
    FlowName,
    FlowRequest,
)
from penstock.jobs.http.allowed import may_use
from penstock.jobs.http.submitting import IDEMPOTENCY_KEY, PREFER, SubmitRoutes
from penstock.jobs.job import Job
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route

_request = msgspec.json.Decoder(FlowRequest)


class StartRoutes:
    """Lists flows and starts runs, which are submitted as jobs are."""

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
        responses={200: ResponseSpec(description="The flows", type=FlowList, example=examples.FLOWS)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_flows(self, request: Request) -> Response:
        request.query({})
        sender = request.principal
        found = await self._service.catalogue.flows(sender.tenant)
        flows = [one for one in found.flows if may_use(sender, "flow", f"{one.name}@{one.version}")]
        return json_response(msgspec.structs.replace(found, flows=flows))

    @route(
        "POST",
        "/api/v1/flows/{name}",
        name="startFlow",
        tag="Flows",
        scope=scopes.JOBS_SUBMIT,
        summary="Start a run of a flow",
        description="The input is checked against the schema of the flow. Without a version, the run gets the most "
        "recently published one that a runner has. A request with an idempotency key starts one run, however often it "
        "is sent, even if the schema has changed meanwhile. The run is a job: its state, result and events are read "
        "like those of any job.",
        path_parameters=(PathParameter(name="name", description="the flow's name", subject="flow"),),
        request=FlowRequest,
        request_example={"input": {"name": "Ada"}},
        parameters=(IDEMPOTENCY_KEY, PREFER),
        responses={
            201: ResponseSpec(description="Started; with `Prefer: wait` finished too", type=Job, example=examples.RUN),
            200: ResponseSpec(
                description="The run that the same request started before", type=Job, example=examples.RUN
            ),
            202: ResponseSpec(
                description="Started, but not finished within the time of `Prefer: wait`",
                type=Job,
                example=examples.RUN,
            ),
        },
        errors=(*BODY_ERRORS, NotFound, Forbidden, IdempotencyConflict, QuotaExceeded, DatabaseUnavailable),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def start(self, request: Request) -> Response:
        given = await request.read(_request)
        name = request.path("name")
        if not fits(name, FlowName):
            raise NotFound(f"there is no flow {name[:100]!r}")
        submission, refusal = await self._service.catalogue.submission(name, given)
        return await self._submitting.accept(request, submission, location="/api/v1/flows/runs/", refusal=refusal)
