"""Response messages in the document's form and in the loader's."""

from __future__ import annotations

import base64

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.objects import is_inline
from penstock.athena.protocol.responses import Bodies, ResponseMessage, encode_response
from tests.athena.strategies import NAMES, data_objects, fields, json_values
from tests.support.athena_messages import OWN_FIELDS, decode_response

_SID = "iat000704fa@dx16ade44e4d87a1c802"


def _json(response: ResponseMessage, bodies: Bodies) -> object:
    return msgspec.json.decode(encode_response(response, bodies))


def _result(**changes: object) -> DataObject:
    one = DataObject(name="result", data="héllo".encode(), attributes={"encoding": "utf8", "rate": 16000})
    for name, value in changes.items():
        setattr(one, name, value)
    return one


def test_the_documents_form_has_base64_and_numbers() -> None:
    """It is that of the protocol's documents and of the original's gateway."""
    response = ResponseMessage(sid=_SID, status=Status.CONTINUE, payload=[_result(status=Status.CONTINUE, seq=2)])
    assert _json(response, Bodies.DOCUMENT) == {
        "header": {"code": 0, "message": "success", "sid": _SID, "status": 1},
        "payload": {
            "result": {
                "encoding": "utf8",
                "rate": 16000,
                "status": 1,
                "seq": 2,
                "text": base64.b64encode("héllo".encode()).decode(),
            }
        },
    }


def test_the_loaders_form_has_plain_text_and_strings() -> None:
    """It is that of version 3 of the original's loader, which has no message in a success."""
    response = ResponseMessage(sid=_SID, status=Status.ONCE, payload=[_result(seq=0)])
    assert _json(response, Bodies.LOADER) == {
        "header": {"code": 0, "sid": _SID, "status": 3},
        "payload": {"result": {"encoding": "utf8", "rate": "16000", "status": "3", "seq": "0", "text": "héllo"}},
    }


def test_errors_have_a_code_and_a_message() -> None:
    """Only the loader's form states an empty payload."""
    response = ResponseMessage(code=10163, message="no", sid=_SID)
    header = {"code": 10163, "message": "no", "sid": _SID}
    assert _json(response, Bodies.DOCUMENT) == {"header": header}
    assert _json(response, Bodies.LOADER) == {"header": header, "payload": None}


def test_json_is_inline_where_the_format_says_so_and_the_data_is_json() -> None:
    """Numbers in it stay as the engine wrote them."""
    boxes = _result(data=b'[ {"x": 1.50} ]', attributes={"format": "json"})
    assert b'"text":[ {"x": 1.50} ]' in encode_response(ResponseMessage(payload=[boxes]))
    for data in (b"[1", b"NaN", b'"text"', b"\xff", b"", b"[1] 2", b"[" * 100_000):
        assert not is_inline(data)
        one = _result(data=data, attributes={"format": "json"})
        assert decode_response(encode_response(ResponseMessage(payload=[one]))).payload == [one]


def test_results_are_packed_as_their_attributes_state() -> None:
    """A client that expects gzip and gbk gets them."""
    one = _result(data="你好".encode(), attributes={"encoding": "gbk", "compress": "gzip"})
    body = encode_response(ResponseMessage(payload=[one]))
    assert decode_response(body).payload == [one]
    assert base64.b64encode("你好".encode()) not in body


responses = st.builds(
    ResponseMessage,
    code=st.integers(0, 2**31),
    message=st.text(st.characters(codec="utf-8"), min_size=1),
    sid=st.just(_SID) | NAMES,
    status=st.none() | st.sampled_from(Status),
    cid=NAMES,
    header=fields.map(lambda found: {name: value for name, value in found.items() if name not in OWN_FIELDS}),
    payload=st.lists(data_objects(), max_size=3, unique_by=lambda one: one.name),
)


@given(responses)
def test_clients_decode_what_the_document_form_encodes(response: ResponseMessage) -> None:
    """JSON that is inline may be written differently; everything else is the same to the byte."""
    found = decode_response(encode_response(response))
    for before, after in zip(response.payload, found.payload, strict=True):
        if before.attributes.get("format") == "json" and is_inline(before.data):
            assert msgspec.json.decode(before.data) == msgspec.json.decode(after.data)
            after.data = before.data
    assert found == response


@given(st.text(st.characters(codec="utf-8")), st.binary(), json_values)
def test_clients_decode_what_the_loaders_form_encodes(text: str, data: bytes, value: object) -> None:
    """Text of any content, binary data and JSON as text."""
    payload = [
        DataObject(name="t", data=text.encode(), attributes={"encoding": "utf8"}, seq=3),
        DataObject(name="i", type=DataType.IMAGE, data=data, status=Status.END),
        DataObject(name="j", data=msgspec.json.encode(value), attributes={"format": "json"}),
    ]
    response = ResponseMessage(sid=_SID, payload=payload)
    assert decode_response(encode_response(response, Bodies.LOADER), Bodies.LOADER) == response
