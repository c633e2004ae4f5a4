"""A once call over HTTP: one request, one call of a service, one response."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from penstock.athena.app_ids import WrongAppId, app_id_of, check_app_id, identify_user
from penstock.athena.authentication import Authentication, Caller, Refused
from penstock.athena.protocol import codes
from penstock.athena.protocol.addressing import for_service, in_message, joined
from penstock.athena.protocol.codes import INVALID_APP_ID
from penstock.athena.protocol.data import DataObject
from penstock.athena.protocol.requests import Limits, RequestMessage, message_in, read_request
from penstock.athena.services import Service, Services
from penstock.athena.tasks import Tasks, is_task
from penstock.athena.webgate.addresses import Addresses
from penstock.athena.webgate.division import Division, Part, divide, hand_on, with_results
from penstock.athena.webgate.replies import Replies, not_found, refusal
from penstock.athena.webgate.sources import Sources
from penstock.errors import InvalidInput, NotFound, PenstockError
from penstock.jobs.states import Status
from penstock.web.request import Request
from penstock.web.response import Headers, Response, json_response

T = TypeVar("T")

_CONTENT_TYPE: Final = "application/json"
_SCALARS: Final = (str, int, float)


class OnceCalls:
    """Serves once calls."""

    def __init__(
        self,
        authentication: Authentication,
        services: Services,
        addresses: Addresses,
        replies: Replies,
        limits: Limits,
        *,
        tasks: Tasks,
        sources: Sources,
    ) -> None:
        self._authentication = authentication
        self._services = services
        self._addresses = addresses
        self._replies = replies
        self._limits = limits
        self._tasks = tasks
        self._sources = sources

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
            return await self._respond(request, caller, service, message_in(body), sid)
        except Refused as refused:
            return refusal(refused)
        except WrongAppId as error:
            return self._replies.outcome(codes.as_outcome(INVALID_APP_ID, str(error)), sid=sid)
        except PenstockError as error:
            return self._replies.failure(error, sid=sid, code_map=service.document.code_map)

    async def _respond(
        self, request: Request, caller: Caller, service: Service, message: dict[str, Any], sid: str
    ) -> Response:
        stated = header_of(message)
        check_app_id(stated, caller)
        identify_user(request, stated)
        service = await self._services.sub_service(service, message, caller.reader)
        await self._sources.fill(message, service.input_types, hold=request.hold_more)
        division = divide(message, lambda name: self._services.sees(name, caller.reader), takes=service.input_types)
        if is_task(stated.header):
            if division is not None:
                raise InvalidInput.of("header.downMethod", "must not be async in a message for several services")
            return await self._submitted(request, caller, service, message, sid)
        if division is None:
            sent, results, headers = await self._one(request, caller, service, Part.whole(service.name, message), sid)
            header = service.rules.response_header(sent.header)
        else:
            results, headers = await self._several(request, caller, division, sid)
            header = {}
        return self._replies.results(results, sid=sid, headers=headers, header=header)

    async def _submitted(
        self, request: Request, caller: Caller, service: Service, message: dict[str, Any], sid: str
    ) -> Response:
        """Submit a call as a task, and return the response that names it."""
        sent = read_request(service.rules.first(message, app_id=app_id_of(caller)), limits=self._limits)
        task, headers = await self._tasks.submit(request, service, for_service(sent, service.name), sid=sid)
        return self._replies.results([], sid=sid, headers=headers, header=task.header)

    async def task(self, request: Request) -> Response:
        """Return the state of a task, with its results once it has completed. Raises Disconnected."""
        sid = self._services.new_sid()
        try:
            caller = await self._authentication.identify(request)
            service = await self._services.find(request.path("serviceId"), caller.reader, request.path("version"))
            task = await self._tasks.find(caller.principal, service, request.path("task"))
            sid = task.job.owner_ref or sid
            if task.failure is not None:
                code_map = service.document.code_map
                return self._replies.failure(task.failure, sid=sid, code_map=code_map, header=task.header)
            results = task.results(service) if task.job.status is Status.COMPLETED else []
            return self._replies.results(results, sid=sid, headers=[], header=task.header)
        except Refused as refused:
            return refusal(refused)
        except NotFound:
            return not_found()
        except PenstockError as error:
            return self._replies.failure(error, sid=sid)

    async def _one(
        self,
        request: Request,
        caller: Caller,
        service: Service,
        part: Part,
        sid: str,
        before: Sequence[DataObject] | None = None,
    ) -> tuple[RequestMessage, list[DataObject], Headers]:
        """Call one service with its part of a message; ``before`` are the results of the service before it in a row."""
        try:
            message = part.message
            if before is None:
                message = service.rules.first(message, app_id=app_id_of(caller))
            else:
                message = service.rules.later(message)
            stated = read_request(message, limits=self._limits)
            wanted = for_service(stated, part.service)
            if before is not None:
                wanted = with_results(wanted, hand_on(before, service.input_types))
            results, headers = await self._services.once(request, service, wanted, sid=sid)
        except InvalidInput as error:
            raise in_message(error, part.fields) if part.fields else error from None
        return stated, results, headers

    async def _several(
        self, request: Request, caller: Caller, division: Division, sid: str
    ) -> tuple[list[DataObject], Headers]:
        """Call the services of a message; return the results of all, each named after its service."""
        services = [await self._services.find(part.service, caller.reader) for part in division.parts]
        pairs = list(zip(division.parts, services, strict=True))
        found: list[tuple[RequestMessage, list[DataObject], Headers]] = []
        if division.in_a_row:
            for part, service in pairs:
                before = found[-1][1] if found else None
                found.append(await self._one(request, caller, service, part, sid, before))
        else:
            found = await together([self._one(request, caller, service, part, sid) for part, service in pairs])
        results = [
            one for part, (_, own, _) in zip(division.parts, found, strict=True) for one in joined(part.service, own)
        ]
        return results, found[-1][2]


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what calls return that run side by side; the first failure ends the others, and is raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def header_of(message: Mapping[str, Any]) -> RequestMessage:
    """Return a message as far as it concerns its sender, before the rules of a document add to it.

    Raises InvalidInput for an app id that is a list or an object.
    """
    header = message.get("header")
    for name in ("app_id", "appid"):
        if isinstance(header, dict) and isinstance(header.get(name), list | dict):
            raise InvalidInput.of(f"header.{name}", "must be a string")
    fields = header.items() if isinstance(header, dict) else ()
    return RequestMessage(header={name: value for name, value in fields if isinstance(value, _SCALARS)})
