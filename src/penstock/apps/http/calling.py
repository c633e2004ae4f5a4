"""Call an app."""

from __future__ import annotations

import msgspec

from penstock.apps.http import examples
from penstock.apps.http.base import APP, TAG
from penstock.apps.results import Results, reply_of
from penstock.apps.service import AppService
from penstock.apps.views import CallReply, CallRequest, RequestResult
from penstock.errors import (
    AppUnavailable,
    DatabaseUnavailable,
    Forbidden,
    IdempotencyConflict,
    NotFound,
    PriceMissing,
    QuotaExceeded,
)
from penstock.jobs.http.submitting import IDEMPOTENCY_KEY, PREFER, SubmitRoutes
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

STAGES: int = 100  # of the first page

_request = msgspec.json.Decoder(CallRequest)


class CallRoutes:
    """Accepts requests of apps, which are submitted as jobs are."""

    def __init__(self, service: AppService, submitting: SubmitRoutes, results: Results) -> None:
        self._service = service
        self._submitting = submitting
        self._results = results
        self.sizes = submitting.sizes

    @route(
        "POST",
        "/api/v1/apps/{app}/call",
        name="callApp",
        tag=TAG,
        scope=scopes.JOBS_SUBMIT,
        summary="Make a request of an app for a user",
        description="The input is checked by the schema that `GET /api/v1/apps/{app}` shows before anything is stored. "
        "With an idempotency key the same request is made once, however often it is sent, even if the schema has "
        "changed meanwhile. With `Prefer: wait` the "
        "response has the result, if the request ends in time.",
        path_parameters=(APP,),
        request=CallRequest,
        request_example=examples.CALL,
        parameters=(IDEMPOTENCY_KEY, PREFER),
        responses={
            202: ResponseSpec(description="Accepted", type=CallReply, example=examples.REPLY),
            200: ResponseSpec(description="It has ended", type=RequestResult, example=examples.RESULT),
        },
        errors=(
            *BODY_ERRORS,
            NotFound,
            AppUnavailable,
            Forbidden,
            IdempotencyConflict,
            QuotaExceeded,
            PriceMissing,
            DatabaseUnavailable,
        ),
        max_body_bytes=lambda routes: routes.sizes.one_job,
    )
    async def call(self, request: Request) -> Response:
        given = await request.read(_request)
        app, sender = request.path("app"), request.principal
        submission, refusal = await self._service.submission(sender, app, given)
        accepted = await self._submitting.accept_job(
            request, submission, location=f"/api/v1/apps/{app}/result/", of_app=True, refusal=refusal
        )
        job = accepted.job
        if job.status.finished:
            result = await self._results.of(sender, app, job.id, from_no=0, limit=STAGES)
            return json_response(result, 200, accepted.headers)
        warned = await self._submitting.warned(request, job)
        return json_response(reply_of(job, app, warned.warnings), 202, accepted.headers)
