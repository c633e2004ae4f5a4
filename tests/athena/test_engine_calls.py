"""Messages become the calls of engines, and the output of engines becomes results."""

from __future__ import annotations

import contextlib
import gzip

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.addressing import Attributes, ServiceRequest
from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.engine_calls import (
    engine_input,
    engine_output,
    last_status,
    plain_attributes,
)
from penstock.athena.protocol.requests import Limits
from penstock.errors import ModelFailed
from penstock.models.replica.aiges import calls
from penstock.models.replica.runtime import Segment
from tests.athena.strategies import NAMES, data_objects, fields
from tests.support.athena_messages import engine_request
from tests.support.hostile_json import KEPT, REFUSED

service_requests = st.builds(
    ServiceRequest,
    service=st.just("ocr"),
    header=fields,
    values=fields,
    expected=st.just({}),
    payload=st.dictionaries(NAMES, st.just(None), max_size=3),
)


def test_an_engine_gets_parameters_expected_results_and_plain_data() -> None:
    """As the engine call of the replicas of engines states it."""
    request = ServiceRequest(
        service="ocr",
        header={"appid": "x"},
        values={"lang": "en"},
        expected={"boxes": {"format": "json"}},
        payload={
            "img": DataObject(name="img", type=DataType.IMAGE, data=b"\xff\xd8\xff", attributes={"encoding": "jpg"}),
            "t": DataObject(name="t", data="你".encode(), attributes={"encoding": "gbk", "compress": "gzip"}, seq=1),
        },
    )
    found = engine_input(request, sid="s")
    assert msgspec.json.decode(found.json) == {
        "header": {"appid": "x", "sid": "s"},
        "parameter": {"lang": "en", "boxes": {"format": "json"}},
        "payload": {
            "img": {"image": None, "encoding": "jpg", "status": 3},
            "t": {"text": "你", "encoding": "utf8", "compress": "raw", "status": 3, "seq": 1},
        },
    }
    assert found.segments == [Segment(b"\xff\xd8\xff", "image/jpeg", ("payload", "img", "image"))]
    assert found.fields == {"parameter": "parameter.ocr"}


def test_replicas_of_engines_read_the_input() -> None:
    """The other side of the same contract."""
    one = DataObject(name="a", type=DataType.AUDIO, data=b"\0\1", status=Status.BEGIN, attributes={"rate": 16000.0})
    found = engine_input(ServiceRequest(service="s", values={"n": 0.5, "b": True}, payload={"a": one}), sid="id")
    read = calls.read(found.json, found.segments)
    assert read.passed([], "id") == {"n": "0.5", "b": "true", "sid": "id"}
    assert [(item.key, bytes(item.data), item.kind, item.status) for item in read.items] == [("a", b"\0\1", 1, 0)]
    assert read.items[0].attributes == {"rate": "16000"}


def test_results_of_replicas_of_engines_are_read() -> None:
    """Text stays text, bytes stay bytes; the last of two results with one key counts."""
    output = calls.write([calls.Item("t", "é".encode()), calls.Item("i", b"\xff", kind=2, status=1)])
    assert engine_output(output.json, output.segments) == [
        DataObject(name="t", data="é".encode()),
        DataObject(name="i", type=DataType.IMAGE, data=b"\xff", status=Status.CONTINUE),
    ]


def test_expected_attributes_decide_how_text_is_written_and_only_fill_those_of_media() -> None:
    """An engine knows the encoding of its picture."""
    json = b'{"payload": {"t": {"text": "x", "encoding": "gb2312"}, "i": {"image": null, "encoding": "png"}}}'
    expected: dict[str, Attributes] = {
        "t": {"encoding": "utf8", "format": "json", "data_type": "text"},
        "i": {"encoding": "jpg", "custom": 1},
    }
    text, image = engine_output(json, [Segment(b"p", path=("payload", "i", "image"))], expected)
    assert text.attributes == {"encoding": "utf8", "format": "json"}
    assert image.attributes == {"encoding": "png", "custom": 1}


def test_what_an_engine_has_compressed_itself_is_unpacked() -> None:
    """Otherwise it would be compressed twice."""
    packed = gzip.compress("你".encode("gbk"))
    json = b'{"payload": {"t": {"text": null, "compress": "gzip", "encoding": "gbk"}}}'
    (one,) = engine_output(json, [Segment(packed, path=("payload", "t", "text"))])
    assert one.data == "你".encode()


@pytest.mark.parametrize(
    "json", [*KEPT.values(), *REFUSED.values(), b"{}", b'{"payload": []}', b'{"payload": {"a": 1}}']
)
@pytest.mark.parametrize(
    "place", [b"%b", b'{"payload": %b}', b'{"payload": {"a": %b}}', b'{"payload": {"a": {"text": %b}}}']
)
def test_a_hostile_output_is_read_or_a_failure_of_the_engine(json: bytes, place: bytes) -> None:
    """An engine is code of others."""
    with contextlib.suppress(ModelFailed):
        engine_output(place.replace(b"%b", json))


@pytest.mark.parametrize("json", [b"{}", b"[]", b"{", b'{"payload": []}', b'{"payload": {"a": {"text": 1}}}'])
def test_an_output_of_another_form_is_a_failure_of_the_engine(json: bytes) -> None:
    """Its callers are not at fault."""
    with pytest.raises(ModelFailed, match="engine"):
        engine_output(json)


@given(service_requests, st.data())
def test_a_round_trip_changes_only_what_was_packed(request: ServiceRequest, data: st.DataObject) -> None:
    """Attributes of plain data say that it is plain; everything else is as before."""
    request.payload = {name: data.draw(data_objects(name)) for name in request.payload}
    found = engine_input(request)
    for one in request.payload.values():
        one.attributes = dict(plain_attributes(one))
    assert engine_request(found.json, found.segments, "ocr") == request


@given(st.lists(st.sampled_from(Status), max_size=4))
def test_a_response_ends_when_each_of_its_results_has_ended(statuses: list[Status]) -> None:
    """The original leaves it open for several results."""
    found = last_status([DataObject(name=str(n), status=one) for n, one in enumerate(statuses)])
    assert found.last == (bool(statuses) and all(one.last for one in statuses))


def test_results_may_have_as_many_bytes_as_calls() -> None:
    text = "x" * (40 << 20)
    (found,) = engine_output(msgspec.json.encode({"payload": {"text": {"text": text}}}))
    assert len(found.data) == len(text)
    with pytest.raises(ModelFailed, match="exceeds the 100 bytes") as failed:
        engine_output(
            msgspec.json.encode({"payload": {"text": {"text": "x" * 101}}}), limits=Limits(max_data_bytes=100)
        )
    assert failed.value.engine_code == 10106
