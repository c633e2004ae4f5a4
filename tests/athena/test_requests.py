"""Request messages: what clients send becomes header, parameters and plain data, and mistakes are named."""

from __future__ import annotations

import base64
import gzip
import math
import time

import msgspec
import pytest
from hypothesis import given

from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.mistakes import DataUndecodable
from penstock.athena.protocol.requests import (
    Limits,
    RequestMessage,
    ServiceParameter,
    decode_request,
)
from penstock.errors import InvalidInput, MalformedBody
from penstock.models.replica.aiges.calls import text_of
from tests.athena.strategies import requests
from tests.support.athena_messages import encode_request


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _message(**parts: object) -> bytes:
    return msgspec.json.encode(parts)


def _problems(body: bytes, limits: Limits | None = None) -> dict[str, str]:
    with pytest.raises(InvalidInput) as raised:
        decode_request(body, limits=limits or Limits())
    return {problem.field: problem.detail for problem in raised.value.problems}


def test_a_first_message_has_parameters_expected_results_and_plain_data() -> None:
    """The three kinds of members of `parameter` and `payload` are distinguished by their shape."""
    message = decode_request(
        _message(
            header={"app_id": "1234", "uid": "d233", "status": 0, "none": None},
            parameter={
                "iat": {
                    "language": "zh",
                    "rate": 16000,
                    "dwa": True,
                    "result": {"encoding": "utf8", "format": "json"},
                }
            },
            payload={
                "audio": {
                    "status": 0,
                    "seq": 1,
                    "sample_rate": 16000,
                    "custom1": "zz",
                    "encoding": "raw",
                    "audio": _b64(b"\0\1"),
                }
            },
        )
    )
    assert message.app_id == "1234"
    assert message.header == {"app_id": "1234", "uid": "d233", "status": 0}
    assert message.status is Status.BEGIN
    assert message.parameter == {
        "iat": ServiceParameter(
            values={"language": "zh", "rate": 16000, "dwa": True},
            expected={"result": {"encoding": "utf8", "format": "json"}},
        )
    }
    assert message.payload == {
        "audio": DataObject(
            name="audio",
            type=DataType.AUDIO,
            data=b"\0\1",
            status=Status.BEGIN,
            seq=1,
            attributes={"sample_rate": 16000, "custom1": "zz", "encoding": "raw"},
        )
    }


def test_both_spellings_of_the_app_id_are_read_and_numbers_become_decimal_text() -> None:
    """The documents mix `appid` and `app_id`, and some clients send it as a number."""
    assert decode_request(b'{"header": {"appid": 1234}}').app_id == "1234"
    assert decode_request(b'{"header": {"appid": "", "app_id": "x"}}').app_id == "x"
    assert decode_request(b"{}").app_id == ""


def test_a_later_message_may_consist_of_a_payload() -> None:
    """Its last piece may lack data; the type is then that of the earlier pieces."""
    message = decode_request(b'{"payload": {"a": {"status": 2}}}', types={"a": DataType.AUDIO})
    assert message.payload["a"] == DataObject(name="a", type=DataType.AUDIO, status=Status.END)
    assert message.status is Status.END
    assert (message.header, message.parameter) == ({}, {})


def test_data_without_a_status_counts_as_the_whole_and_is_known_not_to_state_it() -> None:
    body = b'{"header": {"status": 1}, "payload": {"a": {"text": ""}, "b": {"text": "", "status": 3}}}'
    message = decode_request(body)
    assert [one.status for one in message.payload.values()] == [Status.ONCE, Status.ONCE]
    assert message.unmarked == {"a"}
    assert message.stated_status is Status.CONTINUE


def test_statuses_and_sequence_numbers_may_be_text_or_floats() -> None:
    """The original's loader sends them as strings, and JavaScript clients as floats."""
    one = decode_request(b'{"payload": {"a": {"status": "2", "seq": 7.0, "text": ""}}}').payload["a"]
    assert (one.status, one.seq) == (Status.END, 7)


def test_gzip_is_unpacked_and_chinese_character_sets_become_utf8() -> None:
    """Attributes stay as stated: they describe the message, not the data object."""
    packed = gzip.compress("你好".encode("gb2312"))
    fields = {"text": _b64(packed), "compress": "gzip", "encoding": "gb2312"}
    one = decode_request(_message(payload={"t": fields})).payload["t"]
    assert one.data == "你好".encode()
    assert one.attributes == {"compress": "gzip", "encoding": "gb2312"}


def test_json_in_place_of_base64_is_data() -> None:
    """Objects and lists are, as in the original; other values only where the format says so."""
    assert decode_request(b'{"payload": {"t": {"text": {"a": [1, "x"]}}}}').payload["t"].data == b'{"a":[1,"x"]}'
    assert decode_request(b'{"payload": {"t": {"text": 5, "format": "json"}}}').payload["t"].data == b"5"
    assert "payload.t.text" in _problems(b'{"payload": {"t": {"text": 5}}}')


def test_base64_may_have_line_breaks_and_nothing_else() -> None:
    """Padding is required, as the original's decoder does."""
    assert decode_request(b'{"payload": {"t": {"text": "YWJj\\r\\nZA==\\n"}}}').payload["t"].data == b"abcd"
    for wrong in ("hello word", "YWJjZA", "YWJj ZA==", "YWJjZA==x", "YW-_", "é"):
        assert "base64" in _problems(_message(payload={"t": {"text": wrong}}))["payload.t.text"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", "body"),
        (b'{"heade": {}}', "heade"),
        (b'{"header": []}', "header"),
        (b'{"header": {"a": {}}}', "header.a"),
        (b'{"header": {"status": 4}}', "header.status"),
        (b'{"header": {"status": true}}', "header.status"),
        (b'{"header": {"n": 18446744073709551616}}', "header.n"),
        (b'{"parameter": 1}', "parameter"),
        (b'{"parameter": {"ocr": "en"}}', "parameter.ocr"),
        (b'{"parameter": {"ocr": {"lang": ["en"]}}}', "parameter.ocr.lang"),
        (b'{"parameter": {"ocr": {"boxes": {"a": {}}}}}', "parameter.ocr.boxes.a"),
        (b'{"payload": []}', "payload"),
        (b'{"payload": {"img": null}}', "payload.img"),
        (b'{"payload": {"img": {}}}', "payload.img"),
        (b'{"payload": {"img": {"image": "", "text": ""}}}', "payload.img"),
        (b'{"payload": {"img": {"image": "a"}}}', "payload.img.image"),
        (b'{"payload": {"img": {"image": "", "status": 9}}}', "payload.img.status"),
        (b'{"payload": {"img": {"image": "", "seq": -1}}}', "payload.img.seq"),
        (b'{"payload": {"img": {"image": "", "a": []}}}', "payload.img.a"),
        (b'{"payload": {"img": {"image": "", "compress": "gzip"}}}', "payload.img.image"),
        (b'{"payload": {"t": {"text": "/w==", "encoding": "utf8"}}}', "payload.t.text"),
    ],
)
def test_a_mistake_is_named_by_its_path(body: bytes, field: str) -> None:
    """Each of these bodies has one mistake."""
    assert list(_problems(body)) == [field]


def test_all_mistakes_are_reported_at_once() -> None:
    """A caller mends them in one go."""
    assert list(_problems(b'{"header": 1, "parameter": {"s": 1}, "payload": {"t": {"text": "!"}}}')) == [
        "header",
        "parameter.s",
        "payload.t.text",
    ]


def test_undecodable_data_alone_has_an_error_of_its_own() -> None:
    """The original has a code for it."""
    with pytest.raises(DataUndecodable):
        decode_request(b'{"payload": {"t": {"text": "!"}}}')


def test_text_that_states_no_encoding_may_be_any_bytes() -> None:
    """Engines then get bytes."""
    assert decode_request(b'{"payload": {"t": {"text": "/w=="}}}').payload["t"].data == b"\xff"


def test_unpacking_is_bounded_for_the_whole_message() -> None:
    """A thousandfold compressed body must not fill the memory, nor take long."""
    bomb = gzip.compress(bytes(64 << 20))
    fields = {"other": _b64(bomb), "compress": "gzip"}
    began = time.process_time()
    assert (
        "1048576 bytes" in _problems(_message(payload={"a": fields}), Limits(max_data_bytes=1 << 20))["payload.a.other"]
    )
    members = {"other": _b64(gzip.compress(b"") * 20_000), "compress": "gzip"}
    assert "members" in _problems(_message(payload={"a": members}))["payload.a.other"]
    assert time.process_time() - began < 5  # a hundred times what it takes
    half = {"other": _b64(bytes(700)), "compress": "raw"}
    assert list(_problems(_message(payload={"a": half, "b": half}), Limits(max_data_bytes=1000))) == ["payload.b.other"]


def test_the_numbers_of_objects_and_fields_are_bounded() -> None:
    """Each member costs more memory than its JSON."""
    many = {str(n): {"text": ""} for n in range(65)}
    assert list(_problems(_message(payload=many))) == ["payload"]
    assert list(_problems(_message(header={str(n): 1 for n in range(257)}))) == ["header"]
    assert list(_problems(_message(parameter={"s": {str(n): {} for n in range(65)}}))) == ["parameter.s"]


def test_a_body_that_is_not_json_is_malformed() -> None:
    """It has a code of its own."""
    with pytest.raises(MalformedBody):
        decode_request(b"{")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (16000, "16000"),
        (16000.0, "16000"),
        (0.1, "0.1"),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        (-0.5, "-0.5"),
        (True, "true"),
        (False, "false"),
        ("1e3", "1e3"),
        (2**64 - 1, "18446744073709551615"),
    ],
)
def test_engines_get_numbers_in_decimal(value: float | str, text: str) -> None:
    """The original's loader wrote 16000 as 8796093022208000p-39."""
    assert text_of(value) == text


def test_numbers_that_are_not_finite_have_a_text() -> None:
    """JSON has none, but engines return what they like."""
    assert text_of(math.inf) == "inf"


@given(requests())
def test_encoding_a_request_and_decoding_it_changes_nothing(message: RequestMessage) -> None:
    """Clients of ours and the faces agree on every message."""
    assert decode_request(encode_request(message)) == message
