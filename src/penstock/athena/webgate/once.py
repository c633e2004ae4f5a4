"""A once call over HTTP: one request, one call of a service, one response."""

from __future__ import annotations

from typing import Final

from penstock.athena.app_ids import WrongAppId, check_app_id, identify_user
from penstock.athena.authentication import Authentication, Caller, Refused
from penstock.athena.protocol import codes
from penstock.athena.protocol.addressing import for_service
from penstock.athena.protocol.codes import INVALID_APP_ID
from penstock.athena.protocol.data import DataObject
from penstock.athena.protocol.requests import Limits, RequestMessage, decode_request
from penstock.athena.services import Service, Services
from penstock.athena.webgate.addresses import Addresses
from penstock.athena.webgate.replies import Replies, not_found, refusal
from penstock.errors import NotFound, PenstockError
from penstock.telemetry import logs
from penstock.web.request import Request
from penstock.web.response import Headers, Response, json_response

log = logs.get(__name__)

_CONTENT_TYPE: Final = "application/json"


class OnceCalls:
    """Serves once calls."""

    def __init__(
        self, authentication: Authentication, services: Services, addresses: Addresses, replies: Replies, limits: Limits
    ) -> None:
        self._authentication = authentication
        self._services = services
        self._addresses = addresses
        self._replies = replies
        self._limits = limits

    async def respond(self, request: Request) -> Response:
        """Return the response to a POST at the address of a service. Raises Disconnected."""
        try:
            caller = await self._authentication.identify(request)
            service = await self._addresses.find(request, caller)
        except Refused as refused:
            return refusal(refused)
        except NotFound:
            return not_found()
        except PenstockError as error:
            return self._replies.failure(error, sid=self._services.new_sid())
        kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != _CONTENT_TYPE:
            return json_response({"message": f"content-type must be {_CONTENT_TYPE}"}, 400)
        return await self._called(request, caller, service)

    async def _called(self, request: Request, caller: Caller, service: Service) -> Response:
        sid = self._services.new_sid(service)
        try:
            body = await request.content()
            caller.check_body(body)
            message = decode_request(body, limits=self._limits)
            check_app_id(message, caller)
            identify_user(request, message)
            results, headers = await self._results(request, service, message, sid)
            return self._replies.results(results, sid=sid, headers=headers)
        except Refused as refused:
            return refusal(refused)
        except WrongAppId as error:
            return self._replies.outcome(codes.as_outcome(INVALID_APP_ID, str(error)), sid=sid)
        except PenstockError as error:
            return self._replies.failure(error, sid=sid)

    async def _results(
        self, request: Request, service: Service, message: RequestMessage, sid: str
    ) -> tuple[list[DataObject], Headers]:
        return await self._services.once(request, service, for_service(message, service.name), sid=sid)
