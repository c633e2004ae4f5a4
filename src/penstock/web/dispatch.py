"""Pass a request to the handler of its route, and turn the result or the exception into a response."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from penstock.errors import InvalidInput, MethodNotAllowed, NotFound, PenstockError, ScopeMissing, ServiceError
from penstock.telemetry import logs
from penstock.tenants import scopes
from penstock.tenants.principal import Principal, Subject, logged
from penstock.web import metrics, problems
from penstock.web.body import Disconnected
from penstock.web.problems import Refused
from penstock.web.request import Request
from penstock.web.response import AnyResponse, Response, Upgrade
from penstock.web.route import AnyRoute, Fallback, PathParameter, Route
from penstock.web.router import Router
from penstock.web.websocket import WebSocket

log = logs.get(__name__)

Check = Callable[[Request], Principal | Awaitable[Principal]]
_UNKNOWN: Final = metrics.series("any", "none")  # paths that clients invent must not become label values


class Dispatcher:
    """The application of a server: all routes behind one access check.

    ``check`` identifies the sender of a request or raises; it returns an awaitable where it has to query the database.
    The sender needs the scope that the route declares. Routes that are ``open`` skip the check. The time of a check and
    of the conversion of a request is part of the route's metrics. Where no route has a request's path, the first of the
    ``fallbacks`` that serves it responds.
    """

    def __init__(
        self,
        routes: Sequence[AnyRoute],
        check: Check,
        *,
        fallbacks: Sequence[Fallback] = (),
        log_requests: bool = False,
    ) -> None:
        self._check = check
        self._log_requests = log_requests
        by_path: dict[str, list[AnyRoute]] = {}
        for route in routes:
            by_path.setdefault(route.path, []).append(route)
        self._router = Router({path: _Endpoint(path, of_path) for path, of_path in by_path.items()})
        self._fallbacks = [(one.serves, _Endpoint(one.routes[0].path, one.routes)) for one in fallbacks]

    async def __call__(self, request: Request) -> AnyResponse:
        """Respond to a request; raises Disconnected when the client has left."""
        response = await self._find_and_respond(request)
        if request.by_ticket:  # which is in the URL: pages must not pass it on
            response = dataclasses.replace(response, headers=[*response.headers, (b"referrer-policy", b"no-referrer")])
        request_id = request.headers.get(b"x-request-id")
        if request_id is not None:
            response = dataclasses.replace(response, headers=[*response.headers, (b"x-request-id", request_id)])
        return response

    async def _find_and_respond(self, request: Request) -> AnyResponse:
        endpoint, values = self._router.find(request.url_path)
        if endpoint is None and self._fallbacks:
            endpoint = next((endpoint for serves, endpoint in self._fallbacks if serves(request)), None)
        if endpoint is None:
            _UNKNOWN.count(404)
            return problems.response(NotFound(f"there is nothing at {request.url_path[:200]}"))
        served = endpoint.methods.get(request.method)
        if served is None:
            return endpoint.other_method(request.method)
        began = time.perf_counter()
        route, series = served
        response = await self._respond(route, endpoint, request, values)
        took = time.perf_counter() - began
        series.count(response.status)
        if type(response) is Response:
            series.times.observe(took)
        if self._log_requests:
            fields = {"method": request.method, "path": request.url_path, "status": response.status}
            log.debug("request", **fields, ms=round(1000 * took, 2), **_logged(request))
        return response

    async def _respond(
        self, route: AnyRoute, endpoint: _Endpoint, request: Request, values: Mapping[str, str]
    ) -> AnyResponse:
        try:
            principal = None
            if route.scope is not None:
                found = self._check(request)
                principal = found if isinstance(found, Principal) else await found
                if route.scope is not scopes.ANY:
                    principal.require(route.scope)
                request.principal = principal
                request.scope = route.scope
            if values:
                request.path_values = endpoint.converted(values)
            if principal is not None and principal.subject is not None:
                _check_subject(principal.subject, route, request)
            if isinstance(route, Route):
                request.max_body_bytes = route.max_body_bytes
                return await route.handler(request)
            request.max_body_bytes = route.max_message_bytes
            return _upgrade(request, route.handler)
        except PenstockError as error:
            if type(error) is ServiceError:
                log.exception("request_failed", **_facts(route, request))
            return problems.response(error)
        except Refused as refused:
            return problems.refusal(refused)
        except Disconnected:
            raise
        except Exception:  # an unexpected error is a bug in Penstock; its details appear only in the log
            log.exception("request_failed", **_facts(route, request))
            return problems.unexpected()


class _Endpoint:
    """All methods of one path."""

    def __init__(self, path: str, routes: Sequence[AnyRoute]) -> None:
        self._path = path
        self.methods: dict[str, tuple[AnyRoute, metrics.Series]] = {}
        for route in routes:
            self.methods[route.method] = (route, metrics.series(route.method, path))
            if isinstance(route, Route) and route.method == "GET":
                self.methods["HEAD"] = (route, metrics.series("HEAD", path))
        self._allow = ", ".join([*self.methods, "OPTIONS"])
        self._other = metrics.series("other", path)
        self._ids = {parameter.name: parameter for parameter in routes[0].path_parameters if parameter.type is UUID}

    def other_method(self, method: str) -> Response:
        """Return the response to a method that no route of this path has."""
        if method == "OPTIONS":
            response = Response(status=204, headers=[(b"allow", self._allow.encode())])
        else:
            response = problems.response(MethodNotAllowed(f"{self._path} takes {self._allow}"), allow=self._allow)
        self._other.count(response.status)
        return response

    def converted(self, values: Mapping[str, str]) -> Mapping[str, Any]:
        """Return the values in the path, converted to their types; raises InvalidInput."""
        if not self._ids:
            return values
        return {name: _uuid(text, self._ids[name]) if name in self._ids else text for name, text in values.items()}


def _facts(route: AnyRoute, request: Request) -> dict[str, str | None]:
    return {"route": route.name, "request_id": request.header(b"x-request-id"), **_logged(request)}


def _logged(request: Request) -> dict[str, str]:
    """Return the field that names the tenant of a request's sender, once it is identified."""
    principal: Principal | None = getattr(request, "principal", None)
    return {} if principal is None else logged(principal.tenant_name)


def _check_subject(subject: Subject, route: AnyRoute, request: Request) -> None:
    """Raise ScopeMissing unless the route is about the one thing that a ticket allows."""
    for parameter in route.path_parameters:
        if parameter.subject == subject.kind and str(request.path_values[parameter.name]) == subject.id:
            return
    raise ScopeMissing(f"this ticket is for {subject.kind} {subject.id} only")


def _uuid(text: str, parameter: PathParameter) -> UUID:
    """Read a UUID; only the spelling that responses use is accepted."""
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text.lower():
        raise InvalidInput.of(parameter.name, f"must be a UUID: {parameter.description}")
    return value


def _upgrade(request: Request, handler: Any) -> AnyResponse:
    if request.headers.get(b"upgrade", b"").lower() != b"websocket":
        return problems.upgrade_required()

    async def run(socket: WebSocket) -> None:
        with request.while_allowed(socket.revoke):
            await handler(socket)

    return Upgrade(run=run)
