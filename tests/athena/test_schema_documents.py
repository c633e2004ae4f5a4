"""Documents that describe services: made in both dialects, read, and applied to messages."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.data import DataObject, DataType
from penstock.athena.protocol.requests import read_request
from penstock.athena.protocol.schemas.description import Description, of_engine, of_model
from penstock.athena.protocol.schemas.dialects import Dialect, document_of
from penstock.athena.protocol.schemas.document import MAX_BYTES, Document
from penstock.athena.protocol.schemas.routing import SubRoute
from penstock.athena.protocol.schemas.rules import Rules, as_type
from penstock.errors import CallerError, InvalidInput
from penstock.models.replica.aiges.fields import Data, Parameter, Service
from tests.athena.strategies import json_values
from tests.athena.test_model_calls import SCHEMA
from tests.support.hostile_json import KEPT, REFUSED

ENGINE = Service(
    name="ocr",
    version="v1",
    parameters=[
        Parameter(key="lang", enum=["en", "zh"], required=True),
        Parameter(key="name", min_length=2, max_length=44, title="Name", description="of the picture", default="x1"),
        Parameter(key="angle", type="number", minimum=-90, maximum=90.5, default=0),
        Parameter(key="top", type="integer", enum=[1, 5]),
        Parameter(key="fast", type="boolean", default=False),
    ],
    inputs=[Data(key="img", type="image", encoding="webp"), Data(key="note", format="xml")],
    outputs=[Data(key="boxes", format="json"), Data(key="crop", type="image", encoding="png")],
)


def _parameters(document: dict[str, Any]) -> Any:
    return document["schemainput"]["properties"]["parameter"]["properties"]["ocr"]


@pytest.mark.parametrize("dialect", Dialect)
def test_every_limit_that_an_engine_declares_is_kept(dialect: Dialect) -> None:
    """The original loses minimum, minLength, and most of its current dialect."""
    default = "default" if dialect is Dialect.LEGACY else "defaultVal"
    document = document_of(of_engine(ENGINE), dialect)
    stated = _parameters(document)
    limits = {name: one for name, one in stated["properties"].items() if name not in {"boxes", "crop"}}
    assert limits == {
        "lang": {"type": "string", "enum": ["en", "zh"]},
        "name": {
            "type": "string",
            "minLength": 2,
            "maxLength": 44,
            "title": "Name",
            "description": "of the picture",
            default: "x1",
        },
        "angle": {"type": "number", "minimum": -90, "maximum": 90.5, default: 0},
        "top": {"type": "integer", "enum": [1, 5]},
        "fast": {"type": "boolean", default: False},
    }
    assert stated["required"] == ["lang"]
    img = document["schemainput"]["properties"]["payload"]["properties"]["img"]
    assert "webp" in img["properties"]["encoding"]["examples"]
    assert img["properties"]["encoding"][default] == "webp"
    assert img["properties"]["status"]["enum"] == [3]
    assert img["required"] == ["image"]


def test_the_meta_data_are_those_of_the_original() -> None:
    """Numbers, lists and keys as its dialects have them."""
    common = {
        "serviceId": "ocr",
        "version": "v1",
        "route": "/v1/private/ocr",
        "sub": "ase",
        "call": "atmos",
        "hosts": "api.xf-yun.com",
        "service": ["ocr"],
        "ocr": {
            "input": {"img": {"dataType": "image"}, "note": {"dataType": "text"}},
            "accept": {"boxes": {"dataType": "text"}, "crop": {"dataType": "image"}},
        },
    }
    assert document_of(of_engine(ENGINE), Dialect.LEGACY)["meta"] == common | {"call_type": 0, "routeKey": []}
    assert document_of(of_engine(ENGINE), Dialect.CURRENT)["meta"] == common | {"call_type": "0", "webgate_type": "0"}


def test_a_service_with_sessions_allows_all_statuses_and_omissions() -> None:
    """The later messages of a session state neither header nor parameters."""
    sessions = msgspec.structs.replace(ENGINE, sessions=True)
    given_by = document_of(of_engine(sessions))["schemainput"]
    img = given_by["properties"]["payload"]["properties"]["img"]
    assert img["properties"]["status"]["enum"] == [0, 1, 2, 3]
    assert "required" not in img
    assert "required" not in given_by
    assert document_of(of_engine(ENGINE))["schemainput"]["required"] == ["header", "parameter"]


@pytest.mark.parametrize("dialect", Dialect)
def test_no_input_of_an_engine_is_required(dialect: Dialect) -> None:
    """Documents of the original require none: its clients omit data that an engine can do without."""
    document = document_of(of_engine(ENGINE), dialect)
    assert "required" not in document["schemainput"]["properties"]["payload"]
    message = {"header": {"appid": "a"}, "parameter": {"ocr": {"lang": "en"}}}
    Rules(Document(document)).first(message | {"payload": {"note": {"text": "bm90ZQ=="}}})
    Rules(Document(document)).first(message)


def test_a_model_is_described_by_its_schema() -> None:
    """Parameters keep their JSON Schema, without references and null."""
    description = of_model(name="draw", version="2", input=SCHEMA, output={"type": "string"})
    assert {one.key: (dict(one.schema), one.required) for one in description.parameters} == {
        "language": ({"type": "string", "enum": ["en", "zh"]}, True),
        "title": ({"type": "string", "maxLength": 100}, True),
        "steps": ({"type": "integer"}, False),
        "scale": ({"type": "number"}, False),
        "fast": ({"type": "boolean"}, False),
    }
    assert {one.key: (one.type, one.format, one.required, one.many) for one in description.inputs} == {
        "prompt": (DataType.TEXT, "plain", True, False),
        "note": (DataType.TEXT, "plain", False, False),
        "image": (DataType.IMAGE, "", True, False),
        "sound": (DataType.AUDIO, "", False, False),
        "images_1": (DataType.IMAGE, "", False, True),
        "options": (DataType.TEXT, "json", False, False),
        "anything": (DataType.TEXT, "json", False, False),
    }
    payload = document_of(description)["schemainput"]["properties"]["payload"]
    assert list(payload["patternProperties"]) == ["^images_[0-9]+$"]
    assert payload["required"] == ["prompt", "image"]


def test_names_with_a_meaning_in_patterns_are_matched_literally() -> None:
    """Properties of models may have any name."""
    name = "a.b*\x80/"
    media = {"type": "array", "items": {"type": "string", "format": "media"}}
    document = document_of(of_model(name="m", input={"properties": {name: media}}, output={}))
    Rules(Document(document))
    (pattern,) = document["schemainput"]["properties"]["payload"]["patternProperties"]
    assert re.search(pattern, f"{name}_12")
    assert not re.search(pattern, "acb*\x80/_12")


@pytest.mark.parametrize(
    ("output", "results"),
    [
        ({"type": "string"}, [("result", "text", "plain", "utf8")]),
        ({}, [("result", "text", "json", "utf8")]),
        ({"type": "array", "items": {"type": "number"}}, [("result", "text", "json", "utf8")]),
        ({"type": "string", "format": "media", "contentMediaType": "image/png"}, [("result", "image", "", "png")]),
        (
            {
                "type": "object",
                "properties": {
                    "score": {"type": "number"},
                    "pictures": {"type": "array", "items": {"format": "media", "contentMediaType": "image/*"}},
                },
            },
            [("result", "text", "json", "utf8"), ("pictures_1", "image", "", "")],
        ),
        (
            {"type": "object", "properties": {"a": {"format": "media", "contentMediaType": "audio/wav"}}},
            [("a", "audio", "", "wav")],
        ),
    ],
)
def test_results_are_described_by_the_output_schema(output: dict[str, Any], results: list[tuple[str, ...]]) -> None:
    """By the names that the results of the model have."""
    found = of_model(name="m", input={}, output=output).outputs
    assert [(one.key, one.type.value, one.format, one.encoding) for one in found] == results


DESCRIPTIONS = [
    of_engine(ENGINE),
    of_model(name="draw", input=SCHEMA, output={}),
    of_model(name="m", input={}, output={}),
]


@pytest.mark.parametrize("description", DESCRIPTIONS)
@pytest.mark.parametrize("dialect", Dialect)
def test_made_documents_are_valid_and_can_be_read(description: Description, dialect: Dialect) -> None:
    """By any validator of JSON Schema, and by ourselves."""
    content = document_of(description, dialect)
    jsonschema_rs.validator_for(content["schemainput"])
    jsonschema_rs.validator_for(content["schemaoutput"])
    document = Document.read(msgspec.json.encode(content))
    assert document.routes == [description.path]
    assert document.hosts == ["api.xf-yun.com"]
    assert document.input_types == {one.key: one.type for one in description.inputs}
    assert document.output_types == {one.key: one.type for one in description.outputs}
    Rules(document)


def _message(**changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "header": {"app_id": "1"},
        "parameter": {"ocr": {"lang": "en"}},
        "payload": {"img": {"image": "eA=="}, "note": {"text": "eA=="}},
    }
    return message | changes


def _rules(**given_by: Any) -> Rules:
    content = document_of(of_engine(ENGINE))
    content["schemainput"]["properties"] |= given_by
    return Rules(Document(content))


def test_defaults_are_set_where_nothing_is_stated() -> None:
    """The engine decides what the request does not state about results."""
    found = _rules().first(_message())
    assert found["header"] == {"app_id": "1", "appid": "1", "status": 3}
    assert found["parameter"]["ocr"] == {
        "lang": "en",
        "name": "x1",
        "angle": 0,
        "fast": False,
    }
    assert found["payload"]["img"] == {"image": "eA==", "encoding": "webp", "status": 3, "data_type": "image"}
    assert read_request(found).parameter["ocr"].expected == {}


def test_constants_override_and_keys_are_replaced_after_the_check() -> None:
    """The check sees the names that clients use."""
    parameter = {
        "type": "object",
        "properties": {
            "ocr": {
                "type": "object",
                "properties": {
                    "ent": {"type": "string", "constVal": "a"},
                    "domain": {"type": "string", "enum": ["x"], "replaceKey": "domain_type"},
                },
            }
        },
    }
    rules = _rules(parameter=parameter)
    found = rules.first(_message(parameter={"ocr": {"ent": "other", "domain": "x"}}))
    assert found["parameter"] == {"ocr": {"ent": "a", "domain_type": "x"}}
    assert rules.first({k: v for k, v in _message().items() if k != "parameter"} | {"parameter": {}})["parameter"] == {
        "ocr": {"ent": "a"}
    }
    with pytest.raises(InvalidInput, match=r"parameter\.ocr\.domain"):
        rules.first(_message(parameter={"ocr": {"domain": "y"}}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"header": {}}, "header.appid"),
        ({"header": {"appid": "x" * 51}}, "header.appid"),
        ({"parameter": {"ocr": {}}}, "parameter.ocr.lang"),
        ({"parameter": {"ocr": {"lang": "fr"}}}, "parameter.ocr.lang"),
        ({"parameter": {"ocr": {"lang": "en", "angle": 91}}}, "parameter.ocr.angle"),
        ({"parameter": {"ocr": {"lang": "en", "boxes": {"format": 1}}}}, "parameter.ocr.boxes.format"),
        ({"payload": {"img": {"encoding": "png"}}}, "payload.img.image"),
        ({"payload": {"img": {"image": ""}, "note": {"text": "x"}}}, "payload.img.image"),
        ({"payload": {"img": {"image": "x", "status": 1}, "note": {"text": "x"}}}, "payload.img.status"),
    ],
)
def test_a_request_that_breaks_the_schema_names_the_field(changes: dict[str, Any], field: str) -> None:
    """With code 10163, the words of which are checked elsewhere."""
    with pytest.raises(InvalidInput) as raised:
        _rules().first(_message(**changes))
    assert field in {one.field for one in raised.value.problems}


def test_the_app_id_of_the_key_is_used_where_the_request_states_none() -> None:
    """Under the name that the schema knows; what the client states is kept."""
    assert _rules().first(_message(header={}), app_id="key")["header"]["appid"] == "key"
    assert _rules().first(_message(header={"app_id": 7}), app_id="key")["header"] == {
        "app_id": "7",
        "appid": "7",
        "status": 3,
    }


def test_nothing_is_required_of_later_messages() -> None:
    """What they state must still be allowed."""
    content = document_of(of_engine(msgspec.structs.replace(ENGINE, sessions=True)))
    rules = Rules(Document(content))
    assert rules.later({"payload": {"img": {"status": 2}}})["payload"]["img"]["status"] == 2
    with pytest.raises(InvalidInput, match=r"payload\.img\.status"):
        rules.later({"payload": {"img": {"status": 4}}})


def test_attributes_of_results_get_the_types_of_the_schema() -> None:
    """Engines return texts."""
    content = document_of(of_engine(ENGINE))
    one = DataObject(name="a", type=DataType.AUDIO, attributes={"sample_rate": "16000", "x": "1"})
    content["schemaoutput"]["properties"]["payload"]["properties"]["a"] = {
        "properties": {"sample_rate": {"type": "integer"}, "x": {"type": "string"}}
    }
    Rules(Document(content)).cast([one])
    assert one.attributes == {"sample_rate": 16000, "x": "1"}


def test_text_gets_the_default_attributes_where_none_are_stated() -> None:
    """What the client or the engine states counts; the encoding of a picture is not guessed."""
    rules = Rules(Document(document_of(of_engine(ENGINE))))
    text = DataObject(name="boxes", attributes={"encoding": "gbk"})
    image = DataObject(name="crop", type=DataType.IMAGE)
    rules.cast([text, image])
    assert text.attributes == {"encoding": "gbk", "compress": "raw", "format": "json"}
    assert image.attributes == {}


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("1.5", "number", 1.5),
        ("x", "number", "x"),
        ("nan", "number", "nan"),
        ("9" * 5000, "integer", "9" * 5000),
        (5, "string", "5"),
        ("true", "boolean", True),
        ("yes", "boolean", "yes"),
        ("x", ["string", "null"], "x"),
        ("x", None, "x"),
    ],
)
def test_a_value_is_cast_only_where_it_can_be(value: Any, kind: Any, found: Any) -> None:
    """Other values are returned as they are."""
    assert as_type(value, kind) == found


def test_the_header_is_repeated_where_the_schema_says_so() -> None:
    """Only the fields that the schema knows."""
    content = document_of(of_engine(ENGINE))
    header = {"uid": "7", "other": "x", "status": "3"}
    assert Rules(Document(content)).response_header(header) == {}
    content["meta"]["build_header"] = True
    assert Rules(Document(content)).response_header(header) == {"uid": "7", "status": 3}


CATEGORY: dict[str, Any] = {
    "meta": {
        "serviceId": "iat",
        "type": "category",
        "routeKey": ["domain", "accent"],
        "session_timeout": "65",
        "read_timeout": 4.5,
        "codeMap": {"10110": 429},
        "route": ["/a", "/b"],
        "hosts": ["h"],
        "subRoute": [
            {"subServiceId": "any", "rules": {"$.parameter.iat.domain": ["iat", "medical"]}},
            {
                "subServiceId": "mandarin",
                "priority": 5,
                "rules": {"$.parameter.iat.domain": "iat", "$['parameter'].iat[\"accent\"]": "mandarin"},
            },
            {"subServiceId": "second", "rules": {"$.list[1].n": 5}},
        ],
    }
}


def test_a_category_chooses_a_sub_service() -> None:
    """The highest priority first, then in order; the route keys say by which values."""
    document = Document(CATEGORY)
    assert (document.session_timeout, document.read_timeout) == (timedelta(seconds=65), timedelta(seconds=4.5))
    assert (document.routes, document.hosts, document.code_map) == (["/a", "/b"], ["h"], {"10110": 429})
    routes = document.sub_routes
    assert routes.is_category
    request = {"parameter": {"iat": {"domain": "iat", "accent": "mandarin"}}}
    assert routes.choose(request) == SubRoute(service="mandarin", info="iat_")
    assert routes.choose({"parameter": {"iat": {"domain": "medical"}}}) == SubRoute(service="any", info="medical_")
    assert routes.choose({"list": [0, {"n": 5}]}) == SubRoute(service="second", info="_")
    others: list[Any] = [{}, {"parameter": []}, {"list": [0]}, {"parameter": {"iat": {"domain": {}}}}, None]
    for other in others:
        assert routes.choose(other) is None


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({}, "meta.serviceId"),
        ({"serviceId": 5}, "meta.serviceId"),
        ({"serviceId": "a", "route": [""]}, "meta.route"),
        ({"serviceId": "a", "session_timeout": -1}, "meta.session_timeout"),
        ({"serviceId": "a", "build_header": "yes"}, "meta.build_header"),
        ({"serviceId": "a", "codeMap": {"1": "200"}}, "meta.codeMap.1"),
        ({"serviceId": "a", "a": {"input": {"x": {"dataType": "pictures"}}}}, "meta.a.input.x.dataType"),
        ({"serviceId": "a", "a": {"accept": {"x": {"dataType": ["text"]}}}}, "meta.a.accept.x.dataType"),
        ({"serviceId": "a", "a": {"input": {"x": ["text"]}}}, "meta.a.input.x"),
        ({"serviceId": "a", "subRoute": {}}, "meta.subRoute"),
        ({"serviceId": "a", "subRoute": [1]}, "meta.subRoute[0]"),
        ({"serviceId": "a", "subRoute": [{"rules": {}}]}, "meta.subRoute[0].subServiceId"),
        ({"serviceId": "a", "subRoute": [{"subServiceId": "b", "rules": {"$..x": 1}}]}, "meta.subRoute[0].rules.$..x"),
        ({"serviceId": "a", "subRoute": [{"subServiceId": "b", "rules": {"$.x": {}}}]}, "meta.subRoute[0].rules.$.x"),
    ],
)
def test_mistakes_in_a_document_are_named(meta: dict[str, Any], field: str) -> None:
    """When it is read, not when a request comes."""
    with pytest.raises(InvalidInput) as raised:
        Document({"meta": meta})
    assert [one.field for one in raised.value.problems] == [field]


def test_a_schema_that_is_no_schema_is_refused_when_it_is_read() -> None:
    """So is one that refers to something elsewhere, which would be fetched."""
    for wrong in ({"type": "nothing"}, {"$ref": "http://example.com/x.json"}):
        with pytest.raises(InvalidInput, match="schemainput"):
            Rules(Document({"meta": {"serviceId": "a"}, "schemainput": wrong}))


@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
@pytest.mark.parametrize(
    "place", [b"%b", b'{"meta": %b}', b'{"meta": {"serviceId": "a", "subRoute": %b, "route": %b}}']
)
def test_hostile_documents_are_refused_or_read(name: str, place: bytes) -> None:
    """Files come from others."""
    body = place.replace(b"%b", KEPT.get(name) or REFUSED[name])
    try:
        Rules(Document.read(body))
    except CallerError:
        return


def test_a_document_has_a_size() -> None:
    """A megabyte."""
    with pytest.raises(InvalidInput, match="1048576"):
        Document.read(b" " * (MAX_BYTES + 1))


@given(st.dictionaries(st.sampled_from(["header", "parameter", "payload", "x"]), json_values))
def test_rules_refuse_or_complete_any_message(message: dict[str, Any]) -> None:
    """Without an error of their own."""
    for apply in (_RULES.first, _RULES.later):
        try:
            apply(msgspec.json.decode(msgspec.json.encode(message)))
        except InvalidInput:
            continue


_RULES = _rules()
