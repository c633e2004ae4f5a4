"""Descriptions of services: OpenAPI, and the page to try one."""

from __future__ import annotations

from typing import Any, Final

from penstock.athena.authentication import Authentication, Refused
from penstock.athena.credentials.http import TAG
from penstock.athena.services import Services
from penstock.athena.webgate.openapi import openapi_of
from penstock.athena.webgate.page import page
from penstock.athena.webgate.replies import Replies, not_found, refusal
from penstock.errors import NotFound, PenstockError
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route

_PATH_PARAMETERS: Final = (
    PathParameter(name="version", description="a version of the model, as in the address of its calls"),
    PathParameter(name="serviceId", description="the name of the model"),
)
_EXAMPLE: Final = {"openapi": "3.1.0", "info": {"title": "ocr", "version": "1"}, "paths": {"/v1/private/ocr": {}}}
_REFUSED: Final = ResponseSpec(
    description="Not authenticated", type=dict[str, str], example={"message": "HMAC signature does not match"}
)


class DescriptionRoutes:
    """Descriptions of the services that a sender sees."""

    def __init__(self, authentication: Authentication, services: Services, replies: Replies) -> None:
        self._authentication = authentication
        self._services = services
        self._replies = replies

    @route(
        "GET",
        "/{version}/private/{serviceId}/openapi.json",
        name="describeService",
        tag=TAG,
        open=True,
        summary="Describe a service as OpenAPI; this needs the same sender as a call",
        path_parameters=_PATH_PARAMETERS,
        responses={
            200: ResponseSpec(description="OpenAPI 3.1", type=dict[str, Any], example=_EXAMPLE),
            401: _REFUSED,
            404: ResponseSpec(description="No such service", type=dict[str, str], example={"message": "not found"}),
        },
    )
    async def describe(self, request: Request) -> Response:
        try:
            caller = await self._authentication.identify(request)
            service = await self._services.find(request.path("serviceId"), caller.reader, request.path("version"))
        except Refused as refused:
            return refusal(refused)
        except NotFound:
            return not_found()
        except PenstockError as error:
            return self._replies.failure(error, sid=self._services.new_sid())
        return json_response(openapi_of(service))

    @route(
        "GET",
        "/{version}/private/{serviceId}/try",
        name="tryService",
        tag=TAG,
        open=True,
        summary="A page to try a service; it loads nothing from other hosts",
        path_parameters=_PATH_PARAMETERS,
        responses={200: ResponseSpec(description="The page", type=str, media_type="text/html")},
    )
    async def try_it(self, _request: Request) -> Response:
        return page()
