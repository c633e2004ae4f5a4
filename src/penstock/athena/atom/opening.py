"""Open calls and sessions: the call of a service, within the quotas of its sender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from penstock.athena.app_ids import app_id_of, check_app_id, identify_user
from penstock.athena.atom.exchange import Exchange, OnceExchange, Unpolled
from penstock.athena.atom.senders import Sender
from penstock.athena.atom.stream import StreamExchange
from penstock.athena.protocol.addressing import ServiceRequest, for_service
from penstock.athena.protocol.data import DataObject, Scalar
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.forms.ruled import JsonForm
from penstock.athena.services import Service, Services
from penstock.athena.sessions.forms import form_for, session_schema
from penstock.athena.sessions.input import SessionInput, mark
from penstock.errors import InvalidInput
from penstock.models.host.calls import LiveCall


class Opening:
    """Opens calls and sessions of senders."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._unpolled = Unpolled()

    async def open(self, request: RpcRequest, sender: Sender, sid: str) -> Exchange:
        """Return a call or session that has begun with this message.

        Raises UnexpectedFrame, WrongAppId, WrongMode, and the errors of a call that is not accepted.
        """
        check_app_id(request.message, sender.caller)
        identify_user(sender.request, request.message)
        service = await self._services.find(request.service, sender.caller.reader)
        if len(request.message.parameter) > 1:
            raise InvalidInput.of("business_args", "must be for one service; several at once are served over HTTP only")
        form = JsonForm(request.message)
        service = await self._services.sub_service(service, form.value, sender.caller.reader)
        if request.once or service.documents_sessions:
            status = request.message.status
            in_parts = not request.once and (status is None or not status.last)
            rules = partial(service.rules.first, app_id=app_id_of(sender.caller), in_parts=in_parts)
            request.message = form.ruled(rules)
        part = for_service(request.message, service.name)
        header = service.rules.response_header(request.message.header)
        if request.once:
            call = self._once(sender, service, part, sid)
            return OnceExchange(call, self._unpolled, tenant=sender.request.principal.tenant, header=header)
        return await self._stream(request, part, sender, service, sid, header=header)

    async def _once(self, sender: Sender, service: Service, part: ServiceRequest, sid: str) -> Sequence[DataObject]:
        results, _headers = await self._services.once(sender.request, service, part, sid=sid)
        return results

    async def _stream(
        self,
        request: RpcRequest,
        stated: ServiceRequest,
        sender: Sender,
        service: Service,
        sid: str,
        *,
        header: Mapping[str, Scalar],
    ) -> StreamExchange:
        data = SessionInput()
        whole = mark(request.message, data)
        schema = session_schema(service, whole=whole, holds_data=bool(request.message.payload))
        self._services.require_place(service)
        form = form_for(service, schema, sid)
        stated.payload = request.message.payload  # as it is marked now
        first, part = form.first(stated)
        exchange = StreamExchange(
            form,
            sender.request,
            service.rules,
            documented=service.documents_sessions,
            data=data,
            first=request.number,
            header=header,
        )
        metered = self._services.metered(sender.request, service, stated, first)
        metered.stated.session = schema is not None
        exchange.stated = metered.stated
        async with AsyncExitStack() as held:  # the quotas, until the session ends
            await held.enter_async_context(metered.admitted())
            call = metered.begin(lambda json: self._begin(service, json, first, exchange, sid))
            exchange.held = held.pop_all()
        try:
            await exchange.begin(call, first, part, last=whole)
        except BaseException:
            await exchange.close()
            raise
        return exchange

    def _begin(self, service: Service, json: bytes, first: CallInput, exchange: StreamExchange, sid: str) -> LiveCall:
        host, tenant = self._services.host, exchange.request.principal.tenant
        options: Any = {"request_id": sid, "listener": exchange, "tenant": tenant}
        if exchange.stated.session:
            return host.session(service.deployment, json, first.segments, **options)
        return host.call(service.deployment, json, first.segments, streams=True, **options)
