"""The form of the loader of engines: ``protocol.LoaderInput`` and ``protocol.LoaderOutput``."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from penstock.athena.protocol.codes import SERVER_ERROR
from penstock.athena.protocol.data import DataObject, Status
from penstock.athena.protocol.forms.data import ObjectsReader, attributes_of, bytes_of, expected_of, texts_of
from penstock.athena.protocol.forms.request import NotRepresentable, RpcRequest, parsed
from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput, MetaDesc, Payload
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.requests import DEFAULT, Attributes, Limits, RequestMessage, ServiceParameter
from penstock.athena.protocol.responses import SUCCESS, ResponseMessage


def encode_input(request: RpcRequest) -> bytes:
    """Return a request as a client of the loader sends it. Raises NotRepresentable for parameters of other services."""
    message = request.message
    others = message.parameter.keys() - {request.service}
    if others:
        raise NotRepresentable(f"a loader's request is for one service; this one has parameters for {min(others)!r}")
    own = message.parameter.get(request.service, ServiceParameter())
    return LoaderInput(
        serviceId=request.service,
        serviceName=request.service,
        state=LoaderInput.ONCE if request.once else LoaderInput.STREAM,
        headers=texts_of(message.header),
        params=texts_of(own.values),
        expect=[_expected(name, attributes) for name, attributes in own.expected.items()],
        pl=_payload(message.payload.values(), message.unmarked),
        sync_id=request.number,
    ).SerializeToString(deterministic=True)


def decode_input(data: bytes, limits: Limits = DEFAULT) -> RpcRequest:
    """Return the request of a loader's client. Raises MalformedBody, and InvalidInput that names each wrong field."""
    given = parsed(LoaderInput, data)
    mistakes = Mistakes()
    once = given.state == LoaderInput.ONCE
    objects = ObjectsReader(mistakes, limits)
    header = objects.header(("headers",), given.headers)
    own = ServiceParameter(
        values=objects.texts(("params",), given.params), expected=objects.expected(("expect",), given.expect)
    )
    payload = objects.pieces(("pl",), given.pl)
    mistakes.check()
    service = given.serviceId or given.serviceName
    message = RequestMessage(
        header=header,
        parameter={service: own} if own.values or own.expected else {},
        payload=payload,
        unmarked=frozenset(objects.unmarked),
    )
    return RpcRequest(service=service, message=message, once=once, number=given.sync_id)


def encode_output(response: ResponseMessage, service: str = "") -> bytes:
    """Return a response as the loader returns it. Its id and the other fields of its header have no place in it."""
    return LoaderOutput(
        serviceId=service,
        code=int32(response.code),
        err="" if response.code == 0 else response.message,
        status=(response.status or Status.BEGIN).name,
        pl=_payload(response.payload),
    ).SerializeToString(deterministic=True)


def decode_output(data: bytes, limits: Limits = DEFAULT) -> tuple[str, ResponseMessage]:
    """Return the service and its response. Raises MalformedBody and InvalidInput."""
    given = parsed(LoaderOutput, data)
    mistakes = Mistakes()
    objects = ObjectsReader(mistakes, limits)
    status = objects.status((), str(given.status))
    payload = objects.pieces(("pl",), given.pl)
    mistakes.check()
    return given.serviceId, ResponseMessage(
        code=given.code,
        message=given.err if given.code else SUCCESS,
        status=status,
        payload=list(payload.values()),
    )


def int32(code: int) -> int:
    """Return the code of an engine, or that of a failed service where the field of a form cannot hold it."""
    return code if -(2**31) <= code < 2**31 else SERVER_ERROR.number


def _payload(objects: Iterable[DataObject], unmarked: Collection[str] = ()) -> list[Payload]:
    return [
        Payload(
            meta=MetaDesc(
                name=one.name, dataType=one.type.name, attribute=attributes_of(one, marked=one.name not in unmarked)
            ),
            data=bytes_of(one),
        )
        for one in objects
    ]


def _expected(name: str, attributes: Attributes) -> MetaDesc:
    kind, texts = expected_of(name, attributes)
    return MetaDesc(name=name, dataType=kind.name, attribute=texts)
