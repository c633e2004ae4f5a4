"""Open the sessions of one WebSocket: the call of a service, within the quotas of the sender."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from penstock.athena.app_ids import check_app_id, identify_user
from penstock.athena.authentication import Caller
from penstock.athena.protocol.addressing import ServiceRequest, for_service
from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.requests import RequestMessage
from penstock.athena.services import Service, Services
from penstock.athena.sessions.forms import form_for, session_schema
from penstock.athena.sessions.input import SessionInput, mark
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.session import Link, Session
from penstock.athena.webgate.streaming.sessions import Sessions
from penstock.athena.webgate.streaming.talk import Talk
from penstock.models.host.calls import LiveCall
from penstock.models.replica.runtime import Segment
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

    async def open(self, message: RequestMessage, link: Link, *, cid: str) -> Session:
        """Return a session that has begun with this message, and runs.

        Raises UnexpectedFrame, WrongAppId, InvalidInput and the errors of a call that is not accepted.
        """
        check_app_id(message, self.caller)
        self._request.principal = self.caller.principal  # without the user of another session
        identify_user(self._request, message)
        talk = self._talk(self._services.new_sid(self._service), cid)
        data = SessionInput()
        whole = mark(message, data)
        schema = session_schema(self._service, whole=whole)
        form = form_for(self._service, schema, talk.sid)
        request = for_service(message, self._service.name)
        first, part = form.first(request)
        session = Session(talk, form, link, data=data, limits=self.limits, retries=self._retries)
        session.begin(await self._call(request, first, session, in_parts=schema is not None), first)
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
        return self._talk(self._services.new_sid(self._service), cid).error(outcome)

    def _talk(self, sid: str, cid: str) -> Talk:
        return Talk(sid, cid)

    async def _call(self, request: ServiceRequest, first: CallInput, session: Session, *, in_parts: bool) -> LiveCall:
        """Begin the call within the sender's quotas, which are held until the session ends."""
        self._services.require_place(self._service)
        metered = self._services.metered(self._request, self._service, request, first)
        metered.stated.session = in_parts
        session.stated = metered.stated
        async with AsyncExitStack() as held:
            await held.enter_async_context(metered.admitted())
            call = metered.begin(lambda json: self._begin(json, first.segments, session, in_parts=in_parts))
            session.held = held.pop_all()
        return call

    def _begin(self, json: bytes, segments: Sequence[Segment], session: Session, *, in_parts: bool) -> LiveCall:
        host, deployment = self._services.host, self._service.deployment
        sid, tenant = session.talk.sid, self.caller.principal.tenant
        if in_parts:
            return host.session(deployment, json, segments, request_id=sid, listener=session, tenant=tenant)
        return host.call(deployment, json, segments, request_id=sid, streams=True, listener=session, tenant=tenant)
