"""Open the sessions of one WebSocket: the call of a service, within the quotas of the sender."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from penstock.athena.authentication import Caller
from penstock.athena.protocol.addressing import ServiceRequest, for_service
from penstock.athena.protocol.codes import Outcome
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.requests import RequestMessage
from penstock.athena.services import Service, Services
from penstock.athena.webgate.once import check_app_id, identify_user
from penstock.athena.webgate.streaming.forms import EngineForm, Form, ModelForm
from penstock.athena.webgate.streaming.input import SessionInput
from penstock.athena.webgate.streaming.limits import StreamLimits
from penstock.athena.webgate.streaming.messages import mark
from penstock.athena.webgate.streaming.session import Link, Session
from penstock.athena.webgate.streaming.sessions import Sessions
from penstock.athena.webgate.streaming.talk import Talk
from penstock.models.host.calls import LiveCall
from penstock.models.replica.runtime import Segment, SessionSchema
from penstock.web.request import Request


class WrongMode(Exception):
    """The model takes no sessions."""


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
        schema = self._session_schema(whole=whole)
        form = self._form(schema, talk.sid)
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

    def _session_schema(self, *, whole: bool) -> SessionSchema | None:
        """Return how the model takes sessions; None for a call whose input is the one message.

        An engine that takes sessions gets one even then. Raises WrongMode.
        """
        schema = self._service.deployment.schema
        session = None if schema is None else schema.session
        if session is None and not whole:
            raise WrongMode(f"{self._service.name} takes no sessions: send everything in one message with status 3")
        return None if whole and self._service.engine is None else session

    def _form(self, session: SessionSchema | None, sid: str) -> Form:
        if self._service.engine is not None:
            return EngineForm(self._service, sid)
        return ModelForm(self._service, session)

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
