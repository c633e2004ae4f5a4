"""WebSockets of services: a GET with Upgrade at the addresses of once calls."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from penstock.athena.authentication import Authentication, Caller, Refused, query_of
from penstock.athena.services import Service, Services
from penstock.athena.webgate.addresses import Addresses
from penstock.athena.webgate.replies import Replies, not_found, refusal
from penstock.athena.webgate.streaming.connection import Connection
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.opening import Opening
from penstock.athena.webgate.streaming.sessions import Sessions
from penstock.errors import NotFound, Overloaded, PenstockError
from penstock.web import problems
from penstock.web.request import Request
from penstock.web.response import AnyResponse, Upgrade
from penstock.web.websocket import WebSocket

_MODE: Final = "stream_mode"
_MULTIPLEX: Final = "multiplex"
_RETRY: Final = "enable_retry"


class WebSockets:
    """Serves WebSockets, and owns their sessions; ``stop`` ends all."""

    def __init__(
        self,
        authentication: Authentication,
        services: Services,
        addresses: Addresses,
        replies: Replies,
        limits: StreamLimits,
    ) -> None:
        self.sessions = Sessions()
        self._authentication = authentication
        self._services = services
        self._addresses = addresses
        self._replies = replies
        self._limits = limits

    async def respond(self, request: Request) -> AnyResponse:
        """Return the response to a GET at the address of a service: the connection becomes a WebSocket."""
        if request.method != "GET" or (request.header(b"upgrade") or "").lower() != "websocket":
            return problems.upgrade_required()
        try:
            query = query_of(request)
            mode = query.get(_MODE)
            if mode not in {None, "", _MULTIPLEX}:
                raise Refused.of(400, f"{_MODE} must be {_MULTIPLEX}, where it is stated")
            async with asyncio.timeout(self._limits.handshake_timeout.total_seconds()):
                caller = await self._authentication.identify(request)
                service = await self._addresses.find(request, caller)
        except Refused as refused:
            return refusal(refused)
        except NotFound:
            return not_found()
        except TimeoutError:
            return self._failure(Overloaded("the handshake took too long"))
        except PenstockError as error:
            return self._failure(error)
        request.max_body_bytes = self._limits.message_bytes
        retries = self._limits.retries or query.get(_RETRY) == "true"
        serve = partial(self._serve, service, caller, multiplexed=mode == _MULTIPLEX, retries=retries)
        return Upgrade(run=serve)

    async def stop(self) -> None:
        """End all sessions."""
        await self.sessions.stop()

    async def _serve(
        self, service: Service, caller: Caller, socket: WebSocket, *, multiplexed: bool, retries: bool
    ) -> None:
        opening = Opening(
            self._services, service, caller, socket.request, self.sessions, limits=self._limits, retries=retries
        )
        with socket.request.while_allowed(socket.revoke):
            await Connection(socket, opening, self.sessions, multiplexed=multiplexed).run()

    def _failure(self, error: PenstockError) -> AnyResponse:
        return self._replies.failure(error, sid=self._services.new_sid())
