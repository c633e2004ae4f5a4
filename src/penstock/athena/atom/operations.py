"""The operations of ``utils.XsfCall``: what each does with a call or session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from penstock.athena.app_ids import WrongAppId
from penstock.athena.atom.exchange import Released
from penstock.athena.atom.exchanges import Exchanges, Refusal, key_of
from penstock.athena.atom.forms import BIZ, LOADER, SERVICE, Form, form_of
from penstock.athena.atom.opening import Opening
from penstock.athena.atom.order import TooFarAhead
from penstock.athena.atom.parts import EngineBusy
from penstock.athena.atom.senders import Sender
from penstock.athena.protocol import codes
from penstock.athena.protocol.codes import Code, Outcome
from penstock.athena.protocol.data import Status
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.forms.xsf import XsfRequest, XsfResponse
from penstock.athena.protocol.requests import Limits
from penstock.athena.protocol.responses import ResponseMessage
from penstock.athena.services import Services
from penstock.athena.sessions.forms import WrongMode
from penstock.athena.sessions.input import InputEnded, UnexpectedFrame
from penstock.errors import InvalidInput, MalformedBody, PenstockError
from penstock.models.host.deployment import Deployment
from penstock.tenants import scopes

SEQ_NO: Final = "SeqNo"  # 1: the first message of a call or session
WAIT_TIME: Final = "waitTime"  # milliseconds to wait for results
_FIRST: Final = 1
_MAX_NUMBER: Final = 2**31 - 1
_DEFAULT_WAIT: Final = 500
_MAX_WAIT: Final = 600_000
_MARGIN: Final = 0.05  # seconds before an RPC's deadline, in which its response is sent
_MAX_PLACES: Final = 1_000_000
_CODES: Final[dict[type[Exception], Code]] = {
    InputEnded: codes.SESSION_ENDED,
    UnexpectedFrame: codes.INVALID_DATA,
    TooFarAhead: codes.INVALID_DATA,
    EngineBusy: codes.TIMEOUT,
    Released: codes.INACTIVE,
    WrongAppId: codes.INVALID_APP_ID,
    WrongMode: codes.WRONG_MODE,
}
_PROBLEMS: Final = tuple(_CODES)
_CONTINUES_AFTER: Final = (InputEnded, TooFarAhead, EngineBusy)  # a session: the message has changed nothing
_OF_A_WEB_GATEWAY: Final = frozenset({"req", "exception"})


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC."""

    request: XsfRequest
    sender: Sender
    size: int  # bytes of its message
    deadline: float | None  # by the clock of the event loop; None: it has none

    def wait(self, default: int = _DEFAULT_WAIT) -> float:
        """Return for how many seconds the client wants to wait for results."""
        return self.request.number(WAIT_TIME, default, most=_MAX_WAIT) / 1000

    @property
    def seconds(self) -> float | None:
        """The time that is left until its response has to be sent; None: any."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time() - _MARGIN)


class Operations:
    """Runs operations by their names. Every outcome of an operation is a response."""

    def __init__(self, opening: Opening, exchanges: Exchanges, services: Services, limits: Limits) -> None:
        self._opening = opening
        self._exchanges = exchanges
        self._services = services
        self._limits = limits
        self._by_name: dict[str, Callable[[Call], Awaitable[XsfResponse]]] = {
            "AIIn": self._input,
            "AIOut": self._output,
            "AIExcp": self._end,
            "AIHotword": self._nothing,
            "AILBType": self._places,
            "AIDetect": self._detect,
            "AILoad": self._load,
            "AIUnLoad": self._unload,
            "req": self._biz_call,
            "exception": self._biz_end,
        }

    async def run(self, call: Call) -> XsfResponse:
        """Run the operation that a call names."""
        request = call.request
        form: Form = LOADER
        if request.operation in _OF_A_WEB_GATEWAY:
            form = BIZ  # its messages name the handle
        else:
            request.handle = request.handle or self._services.new_sid()
        try:
            operation = self._by_name.get(request.operation)
            if operation is None:
                known = ", ".join(self._by_name)
                raise Refusal(codes.as_outcome(codes.INVALID_OPERATION, f"the operation must be one of {known}"))
            form = form if form is BIZ else form_of(request)
            response = await operation(call)
        except PenstockError as error:
            response = form.write(request, _failed(_outcome(error)))
        except Refusal as refusal:
            response = form.write(request, _failed(refusal.outcome))
        except _PROBLEMS as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            response = form.write(request, _failed(codes.as_outcome(code, str(error))))
        response.handle, response.trace = request.handle, request.trace
        return response

    async def _input(self, call: Call) -> XsfResponse:
        """Take a message of a call or session, and return results if there are any."""
        form = form_of(call.request)
        request = form.read(call.request, self._limits)
        call.request.parameters.setdefault(SERVICE, request.service)
        seq = call.request.number(SEQ_NO, 0, most=_MAX_NUMBER)
        wait = call.wait()
        if seq == _FIRST:
            await self._open(call, request)
        else:
            await self._take(call, request, seq)
        return await self._polled(call, form, wait if request.once else 0)

    async def _output(self, call: Call) -> XsfResponse:
        """Return results, and wait for them."""
        return await self._polled(call, form_of(call.request), call.wait())

    async def _end(self, call: Call) -> XsfResponse:
        """End a call or session, because its client wants no more results."""
        key = key_of(call.sender.request.principal, call.request.handle)
        async with self._exchanges.using(key) as (place, _):
            self._exchanges.end(place)
        return form_of(call.request).write(call.request, ResponseMessage(status=Status.END))

    async def _biz_call(self, call: Call) -> XsfResponse:
        """Do for a web gateway what AIIn does, or AIOut when the message holds no data."""
        request = BIZ.read(call.request, self._limits)
        call.request.handle = call.request.handle or self._services.new_sid()
        wait = call.wait()
        if request.number <= _FIRST:
            await self._open(call, request)
        elif request.message.payload or request.message.stated_status is not None:
            await self._take(call, request, request.number)
        return await self._polled(call, BIZ, wait)

    async def _biz_end(self, call: Call) -> XsfResponse:
        BIZ.read(call.request, self._limits)
        key = key_of(call.sender.request.principal, call.request.handle)
        async with self._exchanges.using(key) as (place, _):
            self._exchanges.end(place)
        return BIZ.write(call.request, ResponseMessage(status=Status.END))

    async def _open(self, call: Call, request: RpcRequest) -> None:
        if not request.service:
            raise InvalidInput.of(SERVICE, "is required in the first message")
        key = key_of(call.sender.request.principal, call.request.handle)
        place = self._exchanges.reserve(key)
        try:
            exchange = await self._opening.open(request, call.sender, call.request.handle)
        except BaseException:
            self._exchanges.end(place)
            raise
        self._exchanges.add(place, exchange)

    async def _take(self, call: Call, request: RpcRequest, seq: int) -> None:
        """Take one of the next messages. Its number is the one that the form states, or else SeqNo."""
        key = key_of(call.sender.request.principal, call.request.handle)
        async with self._exchanges.using(key) as (place, exchange):
            try:
                await exchange.take(request, seq, size=call.size, seconds=call.seconds)
            except _CONTINUES_AFTER:
                raise
            except Exception:  # later messages that were accepted may be lost with this one
                self._exchanges.end(place)
                raise

    async def _polled(self, call: Call, form: Form, seconds: float) -> XsfResponse:
        key = key_of(call.sender.request.principal, call.request.handle)
        left = call.seconds
        async with self._exchanges.using(key) as (place, exchange):
            try:
                response = await exchange.poll(seconds if left is None else min(seconds, left))
                response.sid, response.header = call.request.handle, dict(exchange.header)
                written = form.write(call.request, response)
            except Exception:
                self._exchanges.end(place)
                raise
            if response.status is not None and response.status.last:
                self._exchanges.end(place)
            return written

    async def _nothing(self, call: Call) -> XsfResponse:
        """Do nothing, as the original does."""
        return form_of(call.request).write(call.request, ResponseMessage(status=Status.ONCE))

    async def _places(self, call: Call) -> XsfResponse:
        """Change how many calls and sessions may be in progress."""
        call.sender.request.principal.require(scopes.OPERATOR)
        stated = call.request.number("authzNo", 0, most=_MAX_PLACES)
        if not stated:
            raise InvalidInput.of("authzNo", f"must be a whole number from 1 to {_MAX_PLACES}")
        self._exchanges.most = stated
        return await self._nothing(call)

    async def _detect(self, call: Call) -> XsfResponse:
        """Return whether the server works, and the service, if the call names one."""
        name = self._service_of(call)
        if name:
            service = await self._services.find(name, call.sender.caller.reader)
            problem = service.deployment.problem
            if problem:
                raise Refusal(codes.as_outcome(codes.INACTIVE, f"{name} cannot be loaded: {problem}"))
        return await self._nothing(call)

    async def _load(self, call: Call) -> XsfResponse:
        """Load a service's model."""
        deployment = await self._managed(call)
        await deployment.load()
        return await self._nothing(call)

    async def _unload(self, call: Call) -> XsfResponse:
        """Unload a service's model once its calls have ended; the next call loads it again."""
        deployment = await self._managed(call)
        await deployment.unload()
        return await self._nothing(call)

    async def _managed(self, call: Call) -> Deployment:
        """Return the model of a service that the sender may manage."""
        call.sender.request.principal.require(scopes.MODELS_MANAGE)
        name = self._service_of(call)
        if not name:
            raise InvalidInput.of(SERVICE, "is required")
        entry = self._services.models.managed(name, call.sender.caller.reader)
        return entry.versions[entry.default]

    def _service_of(self, call: Call) -> str:
        return form_of(call.request).read(call.request, self._limits).service


def _failed(outcome: Outcome) -> ResponseMessage:
    return ResponseMessage(code=outcome.code, message=outcome.message, status=Status.END)


def _outcome(error: PenstockError) -> Outcome:
    """Return the outcome of an error, with the code of the RPC for a message that cannot be read."""
    outcome = codes.of_error(error)
    if isinstance(error, MalformedBody):
        return Outcome(code=codes.UNREADABLE.number, status=outcome.status, message=outcome.message)
    return outcome
