"""Addresses of services: which service a request is for."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from penstock.athena.authentication import Caller, hosts_of, query_of
from penstock.athena.protocol.signing import without_port
from penstock.athena.services import Service, Services
from penstock.errors import NotFound
from penstock.web.request import Request

SERVICE_ID: Final = "serviceId"
_STATED: Final = b"serviceId="
_SHORT: Final = re.compile(r"/(v[0-9][0-9.]{0,10})/([A-Za-z0-9][A-Za-z0-9._-]{0,99})")
_PRIVATE: Final = re.compile(r"/([^/]{1,50})/private/([A-Za-z0-9][A-Za-z0-9._-]{0,99})")


class Addresses:
    """Finds the service that a request addresses.

    In this order: the parameter ``serviceId``; the last segment of ``/{version}/private/{serviceId}``, and of the short
    ``/{version}/{serviceId}``; the host and path, or the path, that the schema of a service states.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def may_serve(self, request: Request) -> bool:
        """Return whether a request to a path that no other route has may be for a service."""
        path = unquote(request.url_path)
        if _STATED in request.query_string or _SHORT.fullmatch(path):
            return True
        return any(path in service.document.routes for service in self._services.known())

    async def find(self, request: Request, caller: Caller) -> Service:
        """Return the service that a request is for. Raises NotFound, ModelUnavailable."""
        path = unquote(request.url_path)
        stated = query_of(request).get(SERVICE_ID) if _STATED in request.query_string else None
        matched = _PRIVATE.fullmatch(path) or _SHORT.fullmatch(path)
        version, name = (matched[1], matched[2]) if matched else ("", "")
        if stated or name:
            try:
                return await self._services.find(stated or name, caller.reader, version)
            except NotFound:
                if stated:
                    raise
        hosts = [without_port(host).lower() for host in hosts_of(request)]
        for service in self._services.by_route(path, hosts):
            if self._services.may_call(service, caller.reader):
                return service
        raise NotFound(f"there is no service at {path[:200]}")
