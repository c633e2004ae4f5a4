"""Open the sessions of one WebSocket: the call of a service, within the quotas of the sender."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from penstock.athena.app_ids import app_id_of, check_app_id, identify_user
from penstock.athena.authentication import Caller
from penstock.athena.protocol.addressing import ServiceRequest, for_service
from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.services import Service, Services
from penstock.athena.sessions.forms import form_for, session_schema
from penstock.athena.sessions.input import SessionInput, mark
from penstock.athena.tasks import METHOD, is_task
from penstock.athena.webgate.division import divide
from penstock.athena.webgate.once import header_of
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.reading import MessageReader
from penstock.athena.webgate.streaming.session import Link, Session
from penstock.athena.webgate.streaming.sessions import Sessions
from penstock.athena.webgate.streaming.talk import Talk
from penstock.errors import InvalidInput
from penstock.models.host.calls import LiveCall
from penstock.models.host.deployment import Deployment
from penstock.web.request import Request


class Opening:
    """Opens sessions with one service for one sender."""

    def __init__(
        self,
        services: Services,
        service: Service,
        caller: Caller,
        request: Request,
        sessions: Sessions,
        *,
        limits: StreamLimits,
        retries: bool,
    ) -> None:
        self.limits = limits
        self.caller = caller
        self._services = services
        self._service = service
        self._request = request
        self._sessions = sessions
        self._retries = retries

    async def open(self, given: dict[str, Any], link: Link, *, cid: str) -> Session:
        """Return a session that has begun with this message, and runs.

        Raises UnexpectedFrame, WrongAppId, InvalidInput and the errors of a call that is not accepted.
        """
        self._identify(given)
        service = await self._services.sub_service(self._service, given, self.caller.reader)
        if divide(given, lambda name: self._services.sees(name, self.caller.reader)) is not None:
            raise InvalidInput.of("parameter", "names several services; over WebSocket, each session is with one")
        if is_task(header_of(given).header):
            raise InvalidInput.of(f"header.{METHOD}", "must be left out over WebSocket: tasks are submitted by POST")
        reader = MessageReader(service, self.limits.message)
        message = reader.first(given, app_id=app_id_of(self.caller))
        talk = Talk(self._services.new_sid(service), cid, service.rules.response_header(message.header))
        data = SessionInput()
        whole = mark(message, data)
        schema = session_schema(service, whole=whole, holds_data=bool(message.payload))
        form = form_for(service, schema, talk.sid)
        request = for_service(message, service.name)
        first, part = form.first(request)
        limits, retries = self.limits.of(service.document), self._retries or service.document.enable_retry
        session = Session(talk, form, link, reader=reader, data=data, limits=limits, retries=retries)
        session.begin(await self._call(service, request, first, session, in_parts=schema is not None), first)
        self._sessions.start(session, self.caller.principal)
        try:
            if part is not None:
                await session.pass_on(part, last=whole)
            elif whole:
                session.finish_input()
        except BaseException:
            session.abandon()
            raise
        return session

    def refusal(self, outcome: Outcome, cid: str) -> bytes:
        """Return the message for a client that has no session, because it could not be opened."""
        return Talk(self._services.new_sid(self._service), cid).error(outcome)

    def _identify(self, given: dict[str, Any]) -> None:
        """Note the end user of a session, and check its app id; raises WrongAppId."""
        header = header_of(given)
        check_app_id(header, self.caller)
        self._request.principal = self.caller.principal  # without the user of another session
        identify_user(self._request, header)

    async def _call(
        self, service: Service, request: ServiceRequest, first: CallInput, session: Session, *, in_parts: bool
    ) -> LiveCall:
        """Begin the call within the sender's quotas, which are held until the session ends."""
        self._services.require_place(service)
        metered = self._services.metered(self._request, service, request, first)
        metered.stated.session = in_parts
        session.stated = metered.stated
        async with AsyncExitStack() as held:
            await held.enter_async_context(metered.admitted())
            deployment = service.deployment
            call = metered.begin(lambda json: self._begin(deployment, json, first, session, in_parts=in_parts))
            session.held = held.pop_all()
        return call

    def _begin(
        self, deployment: Deployment, json: bytes, first: CallInput, session: Session, *, in_parts: bool
    ) -> LiveCall:
        host, segments = self._services.host, first.segments
        sid, tenant = session.talk.sid, self.caller.principal.tenant
        if in_parts:
            return host.session(deployment, json, segments, request_id=sid, listener=session, tenant=tenant)
        return host.call(deployment, json, segments, request_id=sid, streams=True, listener=session, tenant=tenant)
