"""The forms of the RPC: a message that is converted there and back, or through all of them, is the same message."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.athena.protocol.data import DataObject, DataType, Scalar, Status
from penstock.athena.protocol.forms import biz, general, loader
from penstock.athena.protocol.forms.request import NotRepresentable, RpcRequest
from penstock.athena.protocol.forms.ruled import JsonForm
from penstock.athena.protocol.messages.biz_pb2 import ServerBiz
from penstock.athena.protocol.messages.general_pb2 import GeneralData, GlobalRoute
from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput, MetaDesc, Payload
from penstock.athena.protocol.requests import (
    Limits,
    RequestMessage,
    ServiceParameter,
    decode_request,
)
from penstock.athena.protocol.responses import ResponseMessage
from penstock.errors import InvalidInput, MalformedBody
from penstock.models.replica.aiges.calls import text_of
from tests.athena.strategies import data_objects, fields, requests
from tests.support.athena_messages import encode_request

NUMBERS = st.integers(-(2**31), 2**31 - 1)
NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
BEGIN = {"status": "0"}
RELAXED = settings(max_examples=150)


def _texts(values: dict[str, Scalar]) -> dict[str, Scalar]:
    return {name: text_of(value) for name, value in values.items()}


def _textual_object(one: DataObject) -> DataObject:
    return dataclasses.replace(one, attributes=_texts(one.attributes))


def _textual(message: RequestMessage) -> RequestMessage:
    """Return a message as the forms carry it: values are texts, and each expected result states its type."""
    header = _texts(message.header)
    if "status" in message.header:
        header["status"] = message.header["status"]
    return RequestMessage(
        header=header,
        parameter={
            service: ServiceParameter(
                values=_texts(one.values),
                expected={name: {"data_type": "text", **_texts(stated)} for name, stated in one.expected.items()},
            )
            for service, one in message.parameter.items()
        },
        payload={name: _textual_object(one) for name, one in message.payload.items()},
        unmarked=message.unmarked,
    )


@st.composite
def rpc_requests(draw: st.DrawFn, *, services: int = 1, marks: bool = True) -> RpcRequest:
    """Requests as the forms carry them, for one service or several."""
    message = _textual(draw(requests()))
    kinds = st.sampled_from(["text", "audio", "image", "video", "other"])
    for one in message.parameter.values():
        for attributes in one.expected.values():
            attributes["data_type"] = draw(kinds)
    for name, piece in message.payload.items():
        if marks and draw(st.booleans()):
            message.unmarked |= {name}
            piece.status = Status.ONCE
    names = list(message.parameter)[:services]
    message.parameter = {
        name: one for name, one in message.parameter.items() if name in names and (one.values or one.expected)
    }
    service = next(iter(message.parameter)) if len(message.parameter) == 1 else draw(NAMES.filter(bool))
    if services == 1 or not service:
        message.header.pop("service_id", None)
    return RpcRequest(service=service, message=message, once=draw(st.booleans()), number=draw(NUMBERS))


@st.composite
def responses(draw: st.DrawFn) -> ResponseMessage:
    """Responses as the forms carry them."""
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    code = draw(st.just(0) | NUMBERS)
    return ResponseMessage(
        code=code,
        message=draw(NAMES) if code else "success",
        status=draw(st.sampled_from(Status)),
        payload=[_textual_object(draw(data_objects(name))) for name in names],
    )


def _without_dots(request: RpcRequest) -> bool:
    names = [name for one in request.message.parameter.values() for name in (*one.values, *one.expected)]
    return not any("." in name for name in names)


@RELAXED
@given(rpc_requests())
def test_a_request_survives_the_form_of_the_loader(request: RpcRequest) -> None:
    """Both ways: what was decoded is encoded to the same bytes."""
    encoded = loader.encode_input(request)
    decoded = loader.decode_input(encoded)
    assert decoded == request
    assert loader.encode_input(decoded) == encoded


@RELAXED
@given(rpc_requests(services=2), st.dictionaries(NAMES, NAMES, max_size=2), st.booleans())
def test_a_request_survives_the_form_of_the_web_gateway(
    request: RpcRequest, session: dict[str, str], sync: bool
) -> None:
    """Also for several services at once, and with what it states beside the request."""
    route = biz.Route(call="atmos", sender="webgate", sync=sync, session=session)
    encoded = biz.encode_call(request, route)
    assert biz.decode_call(encoded) == (request, route)
    assert biz.encode_call(*biz.decode_call(encoded)) == encoded


@RELAXED
@given(rpc_requests(marks=False).filter(_without_dots))
def test_a_request_survives_the_form_of_the_document(request: RpcRequest) -> None:
    """Also numbers of data objects that its 32 bits cannot hold, and fields of the header that the route lacks."""
    encoded = general.encode(request)
    decoded = general.decode(encoded)
    assert decoded == request
    assert general.encode(decoded) == encoded


@RELAXED
@given(rpc_requests(marks=False).filter(_without_dots))
def test_a_json_message_survives_all_forms_in_turn(request: RpcRequest) -> None:
    """JSON, loader, document, web gateway, JSON."""
    body = encode_request(request.message)
    found = loader.decode_input(
        loader.encode_input(dataclasses.replace(request, message=_textual(decode_request(body))))
    )
    found = general.decode(general.encode(found))
    found, _ = biz.decode_call(biz.encode_call(found, biz.Route()))
    assert found == request
    assert decode_request(encode_request(found.message)) == decode_request(body)


@RELAXED
@given(requests())
def test_any_json_message_is_unchanged_once_its_values_are_texts(message: RequestMessage) -> None:
    """What the forms change at first are types only: a number becomes its decimal text."""
    message.parameter = dict(list(message.parameter.items())[:1])
    message.parameter = {name: one for name, one in message.parameter.items() if one.values or one.expected}
    for one in message.parameter.values():
        for attributes in one.expected.values():
            attributes.pop("data_type", None)
    service = next(iter(message.parameter), "s")
    found = loader.decode_input(loader.encode_input(RpcRequest(service=service, message=message)))
    assert found.message == _textual(message)


@RELAXED
@given(responses(), NAMES)
def test_a_response_survives_the_form_of_the_loader(response: ResponseMessage, service: str) -> None:
    """A success has no error text there."""
    encoded = loader.encode_output(response, service)
    assert loader.decode_output(encoded) == (service, response)


@RELAXED
@given(responses(), NAMES, fields, st.dictionaries(NAMES, NAMES, max_size=2))
def test_a_response_survives_the_form_of_the_web_gateway(
    response: ResponseMessage, sid: str, header: dict[str, Scalar], session: dict[str, str]
) -> None:
    """Its header travels in the route."""
    response.sid, response.header = sid, _texts(header)
    response.header.pop("sid", None)
    encoded = biz.encode_result(response, session=session)
    assert biz.decode_result(encoded) == (response, session)


@RELAXED
@given(responses())
def test_data_survives_the_form_of_the_document(response: ResponseMessage) -> None:
    """Other data has a number that the document's enum lacks, which protobuf carries."""
    assert general.decode_data(general.encode_data(response.payload)) == response.payload


@RELAXED
@given(rpc_requests(services=2))
def test_rules_that_change_nothing_change_no_message(request: RpcRequest) -> None:
    """The data does not travel through the JSON to which the rules of documents apply."""
    assert JsonForm(request.message).ruled(lambda value: value) == request.message


def test_rules_may_rename_and_complete_what_stands_in_json() -> None:
    """A data object keeps its data under its new name; texts have the length of its base64."""
    one = DataObject(name="a", type=DataType.AUDIO, data=b"12345", status=Status.BEGIN)
    form = JsonForm(RequestMessage(payload={"a": one}, header={"x": "1"}))
    assert form.value["payload"]["a"] == {"audio": "AAAAAAAA", "status": 0}

    def rules(value: dict[str, Any]) -> dict[str, Any]:
        place = value["payload"].pop("a") | {}
        value["payload"]["other"] = place
        return value

    assert form.ruled(rules).payload == {}  # a copy is not the place of anything

    def renaming(value: dict[str, Any]) -> dict[str, Any]:
        value["payload"]["b"] = value["payload"].pop("a")
        value["payload"]["b"]["encoding"] = "raw"
        value["parameter"] = {"s": {"lang": "en"}}
        return value

    found = JsonForm(RequestMessage(payload={"a": one})).ruled(renaming)
    assert found.payload == {"b": dataclasses.replace(one, name="b", attributes={"encoding": "raw"})}
    assert found.parameter == {"s": ServiceParameter(values={"lang": "en"})}


DECODERS: list[Callable[[bytes], object]] = [
    loader.decode_input,
    loader.decode_output,
    biz.decode_call,
    biz.decode_result,
    lambda data: general.decode(general.General(route=data, data=[data])),
    lambda data: general.decode_data([data]),
]


@RELAXED
@given(st.binary(max_size=200) | rpc_requests().map(loader.encode_input), st.integers(0, 200), st.binary(max_size=3))
def test_garbage_is_refused_and_nothing_else_is_raised(data: bytes, at: int, inserted: bytes) -> None:
    """Whether it is protobuf, another message, or a message with changed bytes."""
    for decode in DECODERS:
        try:
            decode(data[:at] + inserted + data[at + 1 :])
        except (MalformedBody, InvalidInput):
            continue


def test_a_message_of_the_original_is_read() -> None:
    """The bytes that the original's client sends for this request."""
    given_input = (
        _field(1, b"ocr")
        + b"\x18\x01"
        + _field(4, _field(1, b"appid") + _field(2, b"1"))
        + _field(5, _field(1, b"lang") + _field(2, b"en"))
        + _field(6, _field(1, b"boxes") + _field(3, _field(1, b"encoding") + _field(2, b"utf8")))
        + _field(
            7,
            _field(1, _field(1, b"img") + b"\x10\x02" + _field(3, _field(1, b"status") + _field(2, b"3")))
            + _field(2, b"JPEG"),
        )
        + b"\x40\x05"
    )
    assert loader.decode_input(given_input) == RpcRequest(
        service="ocr",
        message=RequestMessage(
            header={"appid": "1"},
            parameter={
                "ocr": ServiceParameter(
                    values={"lang": "en"}, expected={"boxes": {"encoding": "utf8", "data_type": "text"}}
                )
            },
            payload={"img": DataObject(name="img", type=DataType.IMAGE, data=b"JPEG", status=Status.ONCE)},
        ),
        once=True,
        number=5,
    )


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def test_the_document_s_messages_have_its_numbers() -> None:
    """session_state is field 10 of the route, desc_args field 5 and the data field 8 of GeneralData."""
    route = GlobalRoute(session_id="s", appid="a", session_state="ONCE")
    assert route.SerializeToString() == _field(1, b"s") + _field(6, b"a") + b"\x50\x01"
    data = GeneralData(data_id="d", frame_id=7, data_type="AUDIO", status="END", desc_args={"k": "v"}, data=b"x")
    assert data.SerializeToString() == (
        _field(1, b"d") + b"\x10\x07\x18\x01\x20\x02" + _field(5, _field(1, b"k") + _field(2, b"v")) + _field(8, b"x")
    )


def test_numbers_of_calls_of_the_web_gateway_are_zigzag() -> None:
    """Its codes and numbers are sint32: another encoding than that of the loader's."""
    encoded = biz.encode_result(ResponseMessage(code=-1, message="no"), session={})
    assert ServerBiz.FromString(encoded).up_result.ret == -1
    assert b"\x08\x01" in encoded


@pytest.mark.parametrize(
    ("given_input", "field"),
    [
        (LoaderInput(headers={"status": "x"}), "headers.status"),
        (LoaderInput(pl=[Payload(meta=MetaDesc(attribute={"status": "4"}))]), "pl[0].status"),
        (LoaderInput(pl=[Payload(meta=MetaDesc(attribute={"seq": "-1"}))]), "pl[0].seq"),
        (LoaderInput(pl=[Payload(), Payload()]), "pl[1]"),
        (LoaderInput(pl=[Payload(meta=MetaDesc(attribute={"compress": "gzip"}), data=b"x")]), "pl[0].text"),
        (LoaderInput(pl=[Payload(meta=MetaDesc(attribute={"encoding": "utf8"}), data=b"\xff")]), "pl[0].text"),
        (LoaderInput(expect=[MetaDesc(name="a"), MetaDesc(name="a")]), "expect[1]"),
        (LoaderInput(params={str(one): "" for one in range(300)}), "params"),
        (LoaderInput(expect=[MetaDesc(name=str(one)) for one in range(100)]), "expect"),
        (LoaderInput(pl=[Payload(meta=MetaDesc(name=str(one))) for one in range(100)]), "pl[64]"),
    ],
)
def test_a_mistake_is_named_by_its_field(given_input: LoaderInput, field: str) -> None:
    """The path is that of the protobuf message."""
    with pytest.raises(InvalidInput) as raised:
        loader.decode_input(given_input.SerializeToString())
    assert raised.value.problems[0].field == field


def test_a_type_that_is_not_known_is_refused() -> None:
    """Enums of protobuf are open: any number arrives."""
    wire = _field(7, _field(1, b"\x10\x09"))
    with pytest.raises(InvalidInput) as raised:
        loader.decode_input(wire)
    assert raised.value.problems[0].field == "pl[0].dataType"


def test_unpacked_data_is_bounded() -> None:
    """A few bytes of gzip may hold a thousand times as many."""
    bomb = Payload(meta=MetaDesc(attribute={"compress": "gzip"}), data=gzip.compress(bytes(100_000)))
    with pytest.raises(InvalidInput) as raised:
        loader.decode_input(LoaderInput(pl=[bomb]).SerializeToString(), Limits(max_data_bytes=50_000))
    assert "50000" in raised.value.problems[0].detail


def test_data_without_a_status_is_noted() -> None:
    """Whether it is whole or the begin of a stream depends on its session."""
    given_input = LoaderInput(pl=[Payload(meta=MetaDesc(name="a")), Payload(meta=MetaDesc(name="b", attribute=BEGIN))])
    message = loader.decode_input(given_input.SerializeToString()).message
    assert message.unmarked == {"a"}
    assert (message.payload["a"].status, message.payload["b"].status) == (Status.ONCE, Status.BEGIN)


def test_what_a_form_has_no_place_for_is_refused() -> None:
    """Nothing is dropped without a word."""
    message = RequestMessage(parameter={"other": ServiceParameter(values={"a": "1"})})
    for encode in (loader.encode_input, general.encode):
        with pytest.raises(NotRepresentable, match="other"):
            encode(RpcRequest(service="ocr", message=message))
    message = RequestMessage(parameter={"ocr": ServiceParameter(values={"a.b": "1"})})
    with pytest.raises(NotRepresentable, match=r"a\.b"):
        general.encode(RpcRequest(service="ocr", message=message))
    message = RequestMessage(parameter={"ocr": ServiceParameter(expected={"a": {"data_type": "smell"}})})
    with pytest.raises(NotRepresentable, match="smell"):
        loader.encode_input(RpcRequest(service="ocr", message=message))


def test_a_code_that_does_not_fit_becomes_that_of_a_failed_service() -> None:
    """Engines choose their codes freely."""
    encoded = loader.encode_output(ResponseMessage(code=2**40, message="far"))
    assert LoaderOutput.FromString(encoded).code == 11502
