"""The form of the protocol's document: a ``GlobalRoute``, and a ``GeneralData`` for each data object.

The document has no message for parameters, so they stand beside the route. A parameter is ``name``, and an attribute of
an expected result ``result.name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock.athena.protocol.data import DataObject, DataType
from penstock.athena.protocol.forms.data import ObjectsReader, bytes_of, texts_of
from penstock.athena.protocol.forms.request import NotRepresentable, RpcRequest, parsed
from penstock.athena.protocol.messages.general_pb2 import ONCE, STREAM, GeneralData, GlobalRoute
from penstock.athena.protocol.mistakes import Mistakes
from penstock.athena.protocol.requests import DEFAULT, Limits, RequestMessage, ServiceParameter

_FIELDS: Final = {  # of the header, with their places in the route
    "sid": "session_id",
    "trace_id": "trace_id",
    "up_router_id": "up_router_id",
    "guider_id": "guider_id",
    "down_router_id": "down_router_id",
    "appid": "appid",
    "uid": "uid",
    "did": "did",
    "client_ip": "client_ip",
}
_MAX_FRAME: Final = 2**32 - 1
_SEQ: Final = "seq"
_STATUS: Final = "status"
_DATA_TYPE: Final = "data_type"


@dataclass(slots=True, kw_only=True)
class General:
    """A request in this form; the messages are encoded."""

    route: bytes
    service: str = ""
    header: dict[str, str] = field(default_factory=dict)  # without what the route has
    parameter: dict[str, str] = field(default_factory=dict)
    data: list[bytes] = field(default_factory=list)
    number: int = 0  # of the message within its session


def encode(request: RpcRequest) -> General:
    """Return a request in this form. Raises NotRepresentable for parameters of other services, or with dots."""
    message = request.message
    others = message.parameter.keys() - {request.service}
    if others:
        raise NotRepresentable(f"this form is for one service; the request has parameters for {min(others)!r}")
    header = texts_of(message.header)
    stated = {place: header.pop(name) for name, place in _FIELDS.items() if header.get(name)}
    route = GlobalRoute(session_state=ONCE if request.once else STREAM, **stated)
    return General(
        route=route.SerializeToString(deterministic=True),
        service=request.service,
        header=header,
        parameter=_flat(message.parameter.get(request.service, ServiceParameter())),
        data=encode_data(message.payload.values()),
        number=request.number,
    )


def decode(given: General, limits: Limits = DEFAULT) -> RpcRequest:
    """Return the request. Raises MalformedBody, and InvalidInput that names each wrong field."""
    route = parsed(GlobalRoute, given.route)
    mistakes = Mistakes()
    once = route.session_state == ONCE
    objects = ObjectsReader(mistakes, limits)
    header = objects.header(("header",), given.header)
    header |= {name: value for name, place in _FIELDS.items() if (value := getattr(route, place))}
    parameter = _nested(objects, given.parameter, limits)
    payload = _objects(given.data, objects)
    mistakes.check()
    message = RequestMessage(
        header=header,
        parameter={given.service: parameter} if parameter.values or parameter.expected else {},
        payload=payload,
    )
    return RpcRequest(service=given.service, message=message, once=once, number=given.number)


def encode_data(objects: Iterable[DataObject]) -> list[bytes]:
    """Return data objects as encoded messages ``GeneralData``."""
    return [_general(one).SerializeToString(deterministic=True) for one in objects]


def decode_data(data: Iterable[bytes], limits: Limits = DEFAULT) -> list[DataObject]:
    """Return data objects. Raises MalformedBody and InvalidInput."""
    mistakes = Mistakes()
    found = _objects(data, ObjectsReader(mistakes, limits))
    mistakes.check()
    return list(found.values())


def _general(one: DataObject) -> GeneralData:
    described = texts_of(one.attributes)
    frame = one.seq or 0
    if one.seq is not None and not 0 < frame <= _MAX_FRAME:  # 0 is the same as none in protobuf
        described[_SEQ] = str(one.seq)
        frame = 0
    found = GeneralData(
        data_id=one.name, frame_id=frame, status=one.status.name, desc_args=described, data=bytes_of(one)
    )
    found.data_type = one.type.number  # type: ignore[assignment]  # an open enum: the document has no number 4 (other)
    return found


def _objects(data: Iterable[bytes], objects: ObjectsReader) -> dict[str, DataObject]:
    for index, encoded in enumerate(data):
        one = parsed(GeneralData, encoded)
        described = dict(one.desc_args)
        described[_STATUS] = str(one.status)
        if one.frame_id:
            described[_SEQ] = str(one.frame_id)
        objects.add(("data", index), one.data_id, one.data_type, described, one.data)
    return objects.found


def _flat(one: ServiceParameter) -> dict[str, str]:
    """Return parameters and the attributes of expected results as one level."""
    flat = texts_of(one.values)
    dotted = [name for name in (*flat, *one.expected) if "." in name]
    if dotted:
        raise NotRepresentable(f"this form has no place for the parameter {dotted[0]!r}, whose name has a dot")
    for result, attributes in one.expected.items():
        texts = {_DATA_TYPE: DataType.TEXT.value} | texts_of(attributes)
        flat |= {f"{result}.{name}": value for name, value in texts.items()}
    return flat


def _nested(objects: ObjectsReader, flat: Mapping[str, str], limits: Limits) -> ServiceParameter:
    """Return parameters and expected results from one level."""
    found = ServiceParameter()
    if len(flat) > limits.max_fields * 2:
        objects.refuse(("parameter",), f"has more than {limits.max_fields * 2} fields")
        return found
    for name, value in flat.items():
        result, dot, attribute = name.partition(".")
        if not dot:
            found.values[name] = value
        else:
            found.expected.setdefault(result, {})[attribute] = value
    return found
