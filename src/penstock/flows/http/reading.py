"""Routes that read runs: lists, trees and histories."""

from __future__ import annotations

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    TooLarge,
)
from penstock.flows.http import examples
from penstock.flows.http.base import RUN_ID, RunRoutes
from penstock.flows.views import (
    RunPage,
    RunTree,
    StoredHistory,
    Trouble,
)
from penstock.jobs.filters import JobFilter
from penstock.jobs.http.allowed import may_use
from penstock.jobs.states import Status
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route


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


class ReadRoutes(RunRoutes):
    """Returns runs, with their steps or their whole history."""

    @route(
        "GET",
        "/api/v1/flows/trouble",
        name="flowTrouble",
        tag="Flows",
        scope=scopes.OPERATOR,
        summary="Count the runs of all tenants that need attention",
        description="Held runs wait because their code cannot continue, stranded ones because no runner has their "
        "version. Each tenant lists its own with `GET /api/v1/flows/runs?held=true` and `?stranded=true`.",
        responses={200: ResponseSpec(description="The counts", type=Trouble, example=examples.TROUBLE)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def trouble(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.catalogue.trouble())

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
            Parameter(name="held", type=bool, description="only runs that are held because their code cannot continue"),
            Parameter(name="stranded", type=bool, description="only runs whose version no runner has"),
            Parameter(name="limit", type=int, description="the maximum number of runs per page, up to 1000"),
            Parameter(name="cursor", type=str, description="`next_cursor` of the previous page"),
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
        path_parameters=(RUN_ID,),
        parameters=(
            Parameter(name="from", type=int, description="the number of the first step of the page"),
            Parameter(name="limit", type=int, description="the maximum number of steps per page, up to 1000"),
        ),
        responses={200: ResponseSpec(description="The run", type=RunTree, example=examples.TREE)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        run_id = request.path_id()
        query = request.query({"from": False, "limit": False})
        await self.readable(request, run_id)
        tree = await self._service.tree(
            request.principal.tenant,
            run_id,
            from_no=_number(query, "from", 0, low=0, high=2**31 - 1),
            limit=_number(query, "limit", 200, low=1, high=1000),
        )
        return json_response(tree)

    @route(
        "GET",
        "/api/v1/flows/runs/{id}/history",
        name="getRunHistory",
        tag="Flows",
        scope=scopes.JOBS_READ,
        summary="Read the whole history of a run, for checking code against it",
        description="It has the input and the results. `penstock flow check` replays it with code of another machine.",
        path_parameters=(RUN_ID,),
        responses={200: ResponseSpec(description="The history", type=StoredHistory, example=examples.HISTORY)},
        errors=(InvalidInput, NotFound, TooLarge, DatabaseUnavailable),
    )
    async def history(self, request: Request) -> Response:
        run_id = request.path_id()
        request.query({})
        await self.readable(request, run_id)
        return json_response(await self._service.history(request.principal.tenant, run_id))


def _number(query: dict[str, list[str]], name: str, default: int, *, low: int, high: int) -> int:
    if name not in query:
        return default
    text = query[name][0]
    found = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not low <= found <= high:
        raise InvalidInput.of(name, f"must be a number from {low} to {high}")
    return found
