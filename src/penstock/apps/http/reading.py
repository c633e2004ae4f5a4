"""Read apps, their health, and requests."""

from __future__ import annotations

from msgspec import Struct

from penstock.apps.http import examples
from penstock.apps.http.base import APP, TAG, TASK
from penstock.apps.results import Results
from penstock.apps.service import AppService
from penstock.apps.views import AppHealth, AppList, AppView, RequestResult
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_STAGES = 100


class _Stages(Struct, frozen=True, kw_only=True):
    """The query of a result: a page of its stages."""

    from_stage: int = 0
    stages: int = _STAGES


class ReadRoutes:
    """Returns apps and requests."""

    def __init__(self, service: AppService, results: Results) -> None:
        self._service = service
        self._results = results

    @route(
        "GET",
        "/api/v1/apps",
        name="listApps",
        tag=TAG,
        scope=scopes.JOBS_READ,
        summary="List the apps that the key may use",
        description="For an operator with the mistakes in their files.",
        responses={200: ResponseSpec(description="The apps", type=AppList, example={"apps": [examples.SUMMARY]})},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_apps(self, request: Request) -> Response:
        request.query({})
        return json_response(AppList(apps=await self._service.apps(request.principal)))

    @route(
        "GET",
        "/api/v1/apps/{app}",
        name="getApp",
        tag=TAG,
        scope=scopes.JOBS_READ,
        summary="Read an app with the schemas of its input and result",
        path_parameters=(APP,),
        responses={200: ResponseSpec(description="The app", type=AppView, example=examples.APP)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def app(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.app(request.principal, request.path("app")))

    @route(
        "GET",
        "/api/v1/apps/{app}/health",
        name="appHealth",
        tag=TAG,
        scope=scopes.JOBS_READ,
        summary="Check whether requests of an app run",
        description="`unavailable`: no worker has the app or its flow; requests wait. `degraded`: a file of it has a "
        "mistake, and what was valid before is used.",
        path_parameters=(APP,),
        responses={200: ResponseSpec(description="The health", type=AppHealth, example=examples.HEALTH)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def health(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.health(request.principal, request.path("app")))

    @route(
        "GET",
        "/api/v1/apps/{app}/result/{task_id}",
        name="getAppResult",
        tag=TAG,
        scope=scopes.JOBS_READ,
        summary="Read a request: its state, progress, stages and result",
        description="Files in the result are URLs from which anyone may download them for an hour, those in a bucket "
        "presigned by it.",
        path_parameters=(APP, TASK),
        parameters=(
            Parameter(name="from_stage", type=int, description="the number of the first stage of the page"),
            Parameter(name="stages", type=int, description=f"the most stages of a page, up to 1000, or {_STAGES}"),
        ),
        responses={200: ResponseSpec(description="The request", type=RequestResult, example=examples.RESULT)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def result(self, request: Request) -> Response:
        wanted = request.query_as(_Stages)
        if not 0 <= wanted.from_stage < 2**31:
            raise InvalidInput.of("from_stage", "must be from 0 to 2147483647")
        if not 1 <= wanted.stages <= 1000:
            raise InvalidInput.of("stages", "must be from 1 to 1000")
        app, sender = request.path("app"), request.principal
        result = await self._results.of(
            sender, app, request.path_values["task_id"], from_no=wanted.from_stage, limit=wanted.stages
        )
        return json_response(result, headers=[(b"cache-control", b"no-store")])
