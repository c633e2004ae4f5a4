"""Every model can be called by messages: its JSON Schema says which property is what."""

from __future__ import annotations

import contextlib
import wave
from io import BytesIO
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.addressing import ServiceRequest, for_service
from penstock.athena.protocol.data import DataObject, DataType, Status
from penstock.athena.protocol.members import Role, members_of
from penstock.athena.protocol.model_calls import model_input, model_output
from penstock.athena.protocol.requests import RequestMessage
from penstock.athena.protocol.schemas.description import of_model
from penstock.athena.protocol.schemas.dialects import document_of
from penstock.athena.protocol.schemas.document import Document
from penstock.athena.protocol.schemas.rules import Rules
from penstock.errors import CallerError, InvalidInput, ModelFailed
from penstock.models.replica.data_urls import inlined
from penstock.models.replica.runtime import Segment
from tests.athena.strategies import NAMES, json_values, requests
from tests.support.athena_messages import encode_request, model_request

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string"},
        "language": {"type": "string", "enum": ["en", "zh"]},
        "title": {"type": "string", "maxLength": 100},
        "note": {"type": "string", "x-payload": True},
        "steps": {"type": "integer"},
        "scale": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "fast": {"type": "boolean"},
        "image": {"type": "string", "format": "media", "contentMediaType": "image/*"},
        "sound": {"$ref": "#/$defs/Sound"},
        "images": {"type": "array", "items": {"type": "string", "format": "media", "contentMediaType": "image/*"}},
        "options": {"type": "object"},
        "anything": {},
    },
    "required": ["prompt", "language", "title", "image"],
    "additionalProperties": False,
    "$defs": {
        "Sound": {"anyOf": [{"type": "string", "format": "media", "contentMediaType": "audio/*"}, {"type": "null"}]}
    },
}
MEMBERS = members_of(SCHEMA)


def _request(values: dict[str, Any] | None = None, *objects: DataObject) -> ServiceRequest:
    return ServiceRequest(service="m", values=values or {}, payload={one.name: one for one in objects})


def _input(request: ServiceRequest, schema: dict[str, Any] = SCHEMA) -> Any:
    return msgspec.json.decode(model_input(request, members_of(schema)).json)


def _problems(request: ServiceRequest, schema: dict[str, Any] = SCHEMA) -> dict[str, str]:
    with pytest.raises(InvalidInput) as raised:
        model_input(request, members_of(schema))
    return {one.field: one.detail for one in raised.value.problems}


def test_the_schema_says_what_each_property_is() -> None:
    """The rule that the documentation states."""
    roles = {name: (one.role, one.type) for name, one in MEMBERS.by_name.items()}
    assert roles == {
        "prompt": (Role.TEXT, DataType.TEXT),
        "language": (Role.PARAMETER, DataType.TEXT),
        "title": (Role.PARAMETER, DataType.TEXT),
        "note": (Role.TEXT, DataType.TEXT),
        "steps": (Role.PARAMETER, DataType.TEXT),
        "scale": (Role.PARAMETER, DataType.TEXT),
        "fast": (Role.PARAMETER, DataType.TEXT),
        "image": (Role.MEDIA, DataType.IMAGE),
        "sound": (Role.MEDIA, DataType.AUDIO),
        "images": (Role.MEDIA_LIST, DataType.IMAGE),
        "options": (Role.JSON, DataType.TEXT),
        "anything": (Role.JSON, DataType.TEXT),
    }


def test_a_message_becomes_the_input_and_knows_where_each_field_stood() -> None:
    """So that the check of the schema can name fields of the message."""
    found = model_input(
        _request(
            {"language": "en", "steps": "20", "fast": "true", "scale": "0.5"},
            DataObject(name="prompt", data=b"a fox"),
            DataObject(name="image", type=DataType.IMAGE, data=b"\x89PNG\r\n\x1a\n"),
            DataObject(name="images_2", type=DataType.IMAGE, data=b"2", attributes={"encoding": "jpg"}),
            DataObject(name="images_10", type=DataType.IMAGE, data=b"10"),
            DataObject(name="options", data=b'{"a": 1}'),
        ),
        MEMBERS,
    )
    assert msgspec.json.decode(found.json) == {
        "language": "en",
        "steps": 20,
        "fast": True,
        "scale": 0.5,
        "prompt": "a fox",
        "image": None,
        "images": [None, None],
        "options": {"a": 1},
    }
    assert found.segments == [
        Segment(b"\x89PNG\r\n\x1a\n", "image/png", ("image",)),
        Segment(b"2", "image/jpeg", ("images", 0)),
        Segment(b"10", "image/x-raw", ("images", 1)),
    ]
    assert found.fields["steps"] == "parameter.m.steps"
    assert found.fields["images[1]"] == "payload.images_10.image"


def test_any_property_may_be_a_parameter_or_a_data_object() -> None:
    """Text that the schema calls a data object may be short, and a parameter may be long."""
    assert _input(_request({"prompt": "a fox"})) == {"prompt": "a fox"}
    assert _input(_request({}, DataObject(name="steps", data=b"20"))) == {"steps": 20}
    assert list(_problems(_request({"prompt": "a"}, DataObject(name="prompt", data=b"b")))) == ["payload.prompt"]


def test_values_that_do_not_fit_are_left_to_the_check_of_the_schema() -> None:
    """It explains them better."""
    assert _input(_request({"steps": "many", "fast": "1"})) == {"steps": "many", "fast": "1"}


def test_samples_without_a_header_become_a_wav_file_where_their_rate_is_stated() -> None:
    """Models of Penstock decode files."""
    one = DataObject(
        name="sound",
        type=DataType.AUDIO,
        data=bytes(8_001),
        attributes={"encoding": "raw", "format": "audio/L16;rate=8000"},
    )
    (segment,) = model_input(_request({}, one), MEMBERS).segments
    assert segment.media_type == "audio/wav"
    with wave.open(BytesIO(bytes(segment.in_memory()))) as file:
        assert (file.getframerate(), file.getnframes(), file.getsampwidth(), file.getnchannels()) == (8000, 4000, 2, 1)
    one.attributes = {"encoding": "raw"}
    assert model_input(_request({}, one), MEMBERS).segments[0].data == one.data


def test_mistakes_are_named_by_the_field_of_the_message() -> None:
    """Also where a message is for several services, which name them otherwise."""
    assert list(_problems(_request({}, DataObject(name="steps", type=DataType.IMAGE)))) == ["payload.steps"]
    assert list(_problems(_request({}, DataObject(name="prompt", data=b"\xff")))) == ["payload.prompt.text"]
    assert list(_problems(_request({}, DataObject(name="options", data=b"{")))) == ["payload.options.text"]
    request = _request({}, DataObject(name="options", data=b"{"))
    request.names = {"options": "m_options"}
    assert list(_problems(request)) == ["payload.m_options.text"]


def test_an_input_that_is_no_object_is_one_data_object() -> None:
    """Text, a list, or one medium."""
    assert _input(_request({}, DataObject(name="input", data=b"hello")), {"type": "string"}) == "hello"
    assert _input(_request({}, DataObject(name="input", data=b"[1]")), {"type": "array"}) == [1]
    media = {"type": "string", "format": "media"}
    found = model_input(_request({}, DataObject(name="input", type=DataType.OTHER, data=b"x")), members_of(media))
    assert (found.json, [one.path for one in found.segments]) == (b"null", [()])
    assert list(_problems(_request({"a": 1}), {"type": "string"})) == ["payload.input"]


def test_a_model_without_a_schema_takes_everything() -> None:
    """Scalars, text, JSON and media under their names, or any JSON as the whole."""
    objects = [
        DataObject(name="t", data=b"x"),
        DataObject(name="j", data=b"[1]", attributes={"format": "json"}),
        DataObject(name="i", type=DataType.IMAGE, data=b"\xff"),
    ]
    assert _input(_request({"n": 1}, *objects), {}) == {"n": 1, "t": "x", "j": [1], "i": None}
    whole = DataObject(name="input", data=b"[1]", attributes={"format": "json"})
    assert _input(_request({}, whole), {}) == [1]


_values = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(st.characters(codec="utf-8")),
        "language": st.sampled_from(["en", "zh"]),
        "title": st.text(st.characters(codec="utf-8")),
        "note": st.text(st.characters(codec="utf-8")),
        "steps": st.integers(-(2**63), 2**63),
        "scale": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "fast": st.booleans(),
        "options": st.dictionaries(NAMES, json_values, max_size=2),
        "anything": json_values,
        "image": st.none(),
        "images": st.lists(st.none(), max_size=3),
    },
)


@given(_values, st.binary())
def test_a_round_trip_of_an_input_changes_nothing(value: dict[str, Any], data: bytes) -> None:
    """Whatever a caller of the model sends can be sent as a message."""
    segments = [Segment(data, "image/png", ("image",))] if "image" in value else []
    segments += [Segment(data + b"x", "image/jpeg", ("images", at)) for at in range(len(value.get("images", [])))]
    request = model_request(msgspec.json.encode(value), segments, MEMBERS, "m")
    found = model_input(request, MEMBERS)
    assert msgspec.json.decode(found.json) == value
    assert sorted(found.segments, key=lambda one: str(one.path)) == sorted(segments, key=lambda one: str(one.path))


@given(json_values)
def test_a_round_trip_of_any_json_changes_nothing(value: Any) -> None:
    """For a model whose schema allows anything but objects."""
    members = members_of({"type": ["array", "string", "number", "boolean", "null"]})
    if isinstance(value, dict):
        return
    found = model_input(model_request(msgspec.json.encode(value), [], members, "m"), members)
    assert msgspec.json.decode(found.json) == value


def test_an_output_is_one_result_and_a_data_object_per_medium() -> None:
    """A string is plain text; JSON is without the media in it."""
    (text,) = model_output(b'"hello"')
    assert (text.name, text.data, text.attributes["format"]) == ("result", b"hello", "plain")
    segments = [Segment(b"1", "image/png", ("images", 0)), Segment(b"2", "audio/wav", ("sound",))]
    found = model_output(b'{"score": 1, "images": [null], "sound": null}', segments)
    assert [(one.name, one.type, one.data) for one in found] == [
        ("result", DataType.TEXT, b'{"score":1,"images":[null]}'),
        ("images_1", DataType.IMAGE, b"1"),
        ("sound", DataType.AUDIO, b"2"),
    ]
    assert {(one.status, one.seq) for one in found} == {(Status.ONCE, None)}
    (alone,) = model_output(b"null", [Segment(b"x", "image/png")])
    assert (alone.name, alone.type, alone.attributes["encoding"]) == ("result", DataType.IMAGE, "png")
    assert [one.name for one in model_output(b'{"result": null}', [Segment(b"x", path=("result",))])] == ["result"]
    both = model_output(b'{"result": null, "a": 1}', [Segment(b"x", path=("result",))])
    assert [one.name for one in both] == ["result", "result_2"]


def test_expected_attributes_decide_how_the_result_is_written() -> None:
    """A client may want JSON as base64."""
    (one,) = model_output(b"[1]", expected={"result": {"format": "plain", "compress": "gzip", "data_type": "text"}})
    assert one.attributes == {"encoding": "utf8", "format": "plain", "compress": "gzip"}


def test_the_number_of_media_is_bounded() -> None:
    """A message has at most 64 data objects."""
    segments = [Segment(b"", path=("images", n)) for n in range(65)]
    with pytest.raises(ModelFailed, match="65 media"):
        model_output(msgspec.json.encode({"images": [None] * 65}), segments)


@given(st.lists(st.binary(), max_size=4), json_values)
def test_no_medium_is_lost(data: list[bytes], value: Any) -> None:
    """Each one is in a data object, and the JSON beside them is as it was."""
    output = {"value": value, "media": [None] * len(data)}
    segments = [Segment(one, "image/png", ("media", index)) for index, one in enumerate(data)]
    result, *media = model_output(msgspec.json.encode(output), segments)
    assert msgspec.json.decode(result.data) == output
    assert [one.data for one in media] == data
    assert inlined(result.data, segments)


_schemas: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from(
        [
            {},
            {"type": "string"},
            {"type": "integer", "minimum": 0},
            {"enum": [1, "a", None]},
            {"type": "string", "format": "media"},
            {"type": ["string", "null"]},
            {"$ref": "#/$defs/A"},
            {"$ref": "#"},
            {"const": 3},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "$defs": {"A": {"type": "string"}}},
            st.dictionaries(NAMES, inner, max_size=3),
        ),
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


@given(_schemas, requests())
def test_a_model_of_any_schema_is_described_and_takes_or_refuses_any_message(
    schema: dict[str, Any], message: RequestMessage
) -> None:
    """Schemas may refer to themselves, and properties may have any name."""
    with contextlib.suppress(CallerError):
        model_input(for_service(message, "m"), members_of(schema))
    document = Document(document_of(of_model(name="m", input=schema, output=schema)))
    with contextlib.suppress(CallerError):
        Rules(document).first(msgspec.json.decode(encode_request(message)))
