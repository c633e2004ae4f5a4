"""The form between a web gateway and the next service: ``serverbiz.ServerBiz``.

A client sends an up call and gets an up result. Down calls, by which the original's services send results to an address
that a request states, are not made: a server must not connect to where its clients point it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.forms.data import ObjectsReader, attributes_of, bytes_of, expected_of, texts_of
from penstock.athena.protocol.forms.loader import int32
from penstock.athena.protocol.forms.request import RpcRequest, parsed
from penstock.athena.protocol.messages.biz_pb2 import (
    ArgsData,
    GeneralData,
    GlobalRoute,
    MetaDesc,
    ServerBiz,
    UpCall,
    UpResult,
)
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.requests import DEFAULT, Attributes, Limits, RequestMessage, ServiceParameter
from penstock.athena.protocol.responses import SUCCESS, ResponseMessage
from penstock.errors import InvalidInput
from penstock.models.replica.aiges.calls import text_of

VERSION: Final = "2.0"
_SERVICE: Final = "service_id"  # the field of the header that names the service


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What an up call states beside its request."""

    call: str = ""  # the service that a gateway passes the call to, such as "atmos"
    sender: str = ""
    version: str = VERSION
    sync: bool = True  # the result is wanted in the response
    session: dict[str, str] = field(default_factory=dict)  # what the last up result stated


def encode_call(request: RpcRequest, route: Route) -> bytes:
    """Return a request as a web gateway sends it. The service is a field of the header."""
    message = request.message
    headers = texts_of(message.header)
    if request.service:
        headers[_SERVICE] = request.service
    call = UpCall(
        call=route.call,
        seq_no=request.number,
        sync=route.sync,
        session_state=UpCall.ONCE if request.once else UpCall.STREAM,
        session=route.session,
        business_args={service: _arguments(one) for service, one in message.parameter.items()},
        data_list=_data_list(message.payload.values(), message.unmarked),
        **{"from": route.sender},
    )
    biz = ServerBiz(
        msg_type=ServerBiz.UP_CALL, version=route.version, global_route=GlobalRoute(headers=headers), up_call=call
    )
    return biz.SerializeToString(deterministic=True)


def decode_call(data: bytes, limits: Limits = DEFAULT) -> tuple[RpcRequest, Route]:
    """Return the request of a web gateway. Raises MalformedBody, and InvalidInput that names each wrong field."""
    given = parsed(ServerBiz, data)
    if given.msg_type != ServerBiz.UP_CALL:
        raise InvalidInput.of("msg_type", "must be 0 (UP_CALL)")
    call = given.up_call
    mistakes = Mistakes()
    once = call.session_state == UpCall.ONCE
    objects = ObjectsReader(mistakes, limits)
    header = objects.header(("global_route", "headers"), given.global_route.headers)
    parameter: dict[str, ServiceParameter] = {}
    if len(call.business_args) > limits.max_objects:
        mistakes.add(("up_call", "business_args"), f"has more than {limits.max_objects} services")
    else:
        parameter = {service: _service(objects, service, one) for service, one in call.business_args.items()}
    payload = objects.pieces(("up_call", "data_list"), call.data_list)
    mistakes.check()
    service = text_of(header.pop(_SERVICE, "")) or (next(iter(parameter)) if len(parameter) == 1 else "")
    message = RequestMessage(header=header, parameter=parameter, payload=payload, unmarked=frozenset(objects.unmarked))
    route = Route(
        call=call.call,
        sender=getattr(call, "from"),
        version=given.version,
        sync=call.sync,
        session=dict(call.session),
    )
    return RpcRequest(service=service, message=message, once=once, number=call.seq_no), route


def encode_result(response: ResponseMessage, *, session: dict[str, str], acknowledged: int = 0) -> bytes:
    """Return a response as a web gateway gets it."""
    headers = texts_of(response.header)
    if response.sid:
        headers["sid"] = response.sid
    result = UpResult(
        ret=int32(response.code),
        ack_no=acknowledged,
        err_info="" if response.code == 0 else response.message,
        status=(response.status or Status.BEGIN).name,
        session=session,
        data_list=_data_list(response.payload),
    )
    biz = ServerBiz(
        msg_type=ServerBiz.UP_RESULT, version=VERSION, global_route=GlobalRoute(headers=headers), up_result=result
    )
    return biz.SerializeToString(deterministic=True)


def decode_result(data: bytes, limits: Limits = DEFAULT) -> tuple[ResponseMessage, dict[str, str]]:
    """Return a response, and the session that the next call states. Raises MalformedBody and InvalidInput."""
    given = parsed(ServerBiz, data)
    result = given.up_result
    mistakes = Mistakes()
    objects = ObjectsReader(mistakes, limits)
    header = objects.texts(("global_route", "headers"), given.global_route.headers)
    status = objects.status(("up_result",), str(result.status))
    payload = objects.pieces(("up_result", "data_list"), result.data_list)
    mistakes.check()
    response = ResponseMessage(
        code=result.ret,
        message=result.err_info if result.ret else SUCCESS,
        sid=text_of(header.pop("sid", "")),
        status=status,
        header=header,
        payload=list(payload.values()),
    )
    return response, dict(result.session)


def _arguments(one: ServiceParameter) -> ArgsData:
    return ArgsData(
        business_args=texts_of(one.values),
        ple={name: _expected(name, attributes) for name, attributes in one.expected.items()},
    )


def _expected(name: str, attributes: Attributes) -> MetaDesc:
    kind, texts = expected_of(name, attributes)
    return MetaDesc(name=name, dataType=kind.name, attribute=texts)


def _service(objects: ObjectsReader, service: str, given: ArgsData) -> ServiceParameter:
    path = ("up_call", "business_args", service)
    described = [MetaDesc(name=name, dataType=one.dataType, attribute=one.attribute) for name, one in given.ple.items()]
    return ServiceParameter(
        values=objects.texts(path, given.business_args), expected=objects.expected((*path, "ple"), described)
    )


def _data_list(objects: Iterable[DataObject], unmarked: Collection[str] = ()) -> list[GeneralData]:
    return [
        GeneralData(
            meta=MetaDesc(
                name=one.name, dataType=one.type.name, attribute=attributes_of(one, marked=one.name not in unmarked)
            ),
            data=bytes_of(one),
        )
        for one in objects
    ]
