"""The forms in which operations get requests and return responses; a client chooses one."""

from __future__ import annotations

from typing import Final, Protocol

from penstock.athena.protocol.codes import FULL
from penstock.athena.protocol.forms import biz, general, loader
from penstock.athena.protocol.forms.request import RpcRequest
from penstock.athena.protocol.forms.xsf import Piece, XsfRequest, XsfResponse
from penstock.athena.protocol.requests import Limits, RequestMessage
from penstock.athena.protocol.responses import ResponseMessage
from penstock.errors import InvalidInput

VERSION: Final = "version"  # the parameter that names the form
SERVICE: Final = "serviceId"  # the parameter that names the service, where the form has no place for it


class Form(Protocol):
    """Reads requests and writes responses."""

    def read(self, call: XsfRequest, limits: Limits) -> RpcRequest:
        """Return the request in a call, which may have none. Raises MalformedBody and InvalidInput."""

    def write(self, call: XsfRequest, response: ResponseMessage) -> XsfResponse:
        """Return a response to the call. Its handle and trace are set by the caller."""


class LoaderForm:
    """``protocol.LoaderInput`` and ``protocol.LoaderOutput``. The output also states errors, as the original's does."""

    def read(self, call: XsfRequest, limits: Limits) -> RpcRequest:
        if not call.data:
            return RpcRequest(service=call.parameters.get(SERVICE, ""), message=RequestMessage(), once=False)
        request = loader.decode_input(call.data[0].data, limits)
        request.service = request.service or call.parameters.get(SERVICE, "")
        return request

    def write(self, call: XsfRequest, response: ResponseMessage) -> XsfResponse:
        output = loader.encode_output(response, call.parameters.get(SERVICE, ""))
        full = response.code == FULL.number  # the one error for which the original's clients try another server
        return XsfResponse(
            code=response.code if full else 0,
            error=response.message if full else "",
            data=[Piece(data=output)],
        )


class GeneralForm:
    """The document's messages: first a ``GlobalRoute``, which parameters describe, then a ``GeneralData`` for each data
    object. Other fields of the header are attributes of the session."""

    def read(self, call: XsfRequest, limits: Limits) -> RpcRequest:
        route, *data = call.data or [Piece(data=b"")]
        given = general.General(
            route=route.data,
            service=call.parameters.get(SERVICE, ""),
            header=call.session,
            parameter=route.description,
            data=[one.data for one in data],
        )
        return general.decode(given, limits)

    def write(self, call: XsfRequest, response: ResponseMessage) -> XsfResponse:  # noqa: ARG002 - of the contract
        return XsfResponse(
            code=loader.int32(response.code),
            error="" if response.code == 0 else response.message,
            parameters={} if response.status is None else {"status": str(int(response.status))},
            data=[Piece(data=one) for one in general.encode_data(response.payload)],
        )


class BizForm:
    """``serverbiz.ServerBiz``."""

    def read(self, call: XsfRequest, limits: Limits) -> RpcRequest:
        if not call.data:
            raise InvalidInput.of("data", "must hold a message serverbiz.ServerBiz")
        request, route = biz.decode_call(call.data[0].data, limits)
        call.handle = call.handle or request.message.text("sid") or route.session.get("handle", "")
        if not route.sync:
            call.parameters.setdefault("waitTime", "0")
        return request

    def write(self, call: XsfRequest, response: ResponseMessage) -> XsfResponse:
        result = biz.encode_result(response, session={"handle": call.handle})
        return XsfResponse(data=[Piece(data=result)])


LOADER: Final = LoaderForm()
BIZ: Final = BizForm()
_BY_VERSION: Final[dict[str, Form]] = {"": LOADER, "v2": LOADER, "v1": GeneralForm()}


def form_of(call: XsfRequest) -> Form:
    """Return the form that the parameters of a call name. Raises InvalidInput."""
    found = _BY_VERSION.get(call.parameters.get(VERSION, ""))
    if found is None:
        raise InvalidInput.of(VERSION, "must be v2, the loader's messages, or v1, the document's")
    return found
