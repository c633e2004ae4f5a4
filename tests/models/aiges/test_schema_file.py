"""The file that describes an engine, in the dialects of Athena Serving and as a schema of Penstock."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.schemas.description import of_engine
from penstock.athena.protocol.schemas.dialects import Dialect, document_of
from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges.fields import Data, Parameter, Service
from penstock.models.replica.aiges.schema_file import schema_in, service_of, stated
from penstock.models.replica.runtime import Schema, Spec

DOCUMENT = {
    "meta": {
        "serviceId": "ocr",
        "version": "v2",
        "route": ["/v2/private/ocr", "/ocr"],
        "sub": "ase",
        "call_type": 1,
        "ocr": {"input": {"img": {"dataType": "image"}}, "accept": {"boxes": {"dataType": "text"}}},
    },
    "schemainput": {
        "type": "object",
        "properties": {
            "header": {"type": "object"},
            "parameter": {
                "properties": {
                    "ocr": {
                        "properties": {
                            "lang": {"type": "string", "enum": ["en", "zh"], "defaultVal": "en"},
                            "top": {"type": "integer", "minimum": 1, "maximum": 9},
                            "boxes": {"type": "object", "properties": {"format": {"type": "string", "enum": ["json"]}}},
                        },
                        "required": ["top"],
                    }
                }
            },
            "payload": {"properties": {"img": {"properties": {"encoding": {"enum": ["jpg", "png"]}, "image": {}}}}},
        },
    },
    "schemaoutput": {"properties": {"payload": {"properties": {"boxes": {"properties": {"text": {}}}}}}},
}


def spec(folder: Path, *, schema: Schema | None = None, **options: Any) -> Spec:
    return Spec(name="m", version="1", folder=folder, options=options, schema=schema or Schema())


def test_a_schema_of_athena_describes_an_engine() -> None:
    assert service_of(DOCUMENT, name="other", version="0", sessions=True) == Service(
        name="ocr",
        version="v2",
        route="/v2/private/ocr",
        call_type="1",
        parameters=[
            Parameter(key="lang", enum=["en", "zh"], default="en"),
            Parameter(key="top", type="integer", minimum=1, maximum=9, required=True),
        ],
        inputs=[Data(key="img", type="image")],
        outputs=[Data(key="boxes", format="json")],
        sessions=True,
    )


_NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
_PARAMETERS = st.one_of(
    st.builds(
        Parameter,
        key=_NAMES,
        title=st.sampled_from(["", "A title"]),
        required=st.booleans(),
        min_length=st.none() | st.integers(0, 5),
        max_length=st.none() | st.integers(5, 50),
    ),
    st.builds(Parameter, key=_NAMES, enum=st.lists(_NAMES, min_size=1, unique=True), default=st.none() | _NAMES),
    st.builds(
        Parameter,
        key=_NAMES,
        type=st.sampled_from(["number", "integer"]),
        minimum=st.none() | st.integers(-9, 0),
        maximum=st.none() | st.integers(0, 9),
    ),
    st.builds(Parameter, key=_NAMES, type=st.just("boolean"), default=st.none() | st.booleans()),
)
_DATA = st.builds(Data, key=_NAMES, type=st.sampled_from(["text", "audio", "image", "video", "other"]))
_SERVICES = st.builds(
    Service,
    name=st.just("service"),
    version=st.just("v1"),
    parameters=st.lists(_PARAMETERS, max_size=4, unique_by=lambda one: one.key),
    inputs=st.lists(_DATA, max_size=3, unique_by=lambda one: one.key),
    outputs=st.lists(_DATA.map(lambda one: Data(key=f"out_{one.key}", type=one.type)), unique_by=lambda one: one.key),
    sessions=st.booleans(),
)


@given(_SERVICES, st.sampled_from(Dialect))
def test_what_an_engine_declares_survives_both_dialects(service: Service, dialect: Dialect) -> None:
    document = document_of(of_engine(service), dialect)
    found = service_of(json.loads(json.dumps(document)), name="other", sessions=service.sessions)
    assert found.parameters == service.parameters
    for kept, original in ((found.inputs, service.inputs), (found.outputs, service.outputs)):
        assert [(one.key, one.type) for one in kept] == [(one.key, one.type) for one in original]


def test_the_file_in_the_folder_is_used(tmp_path: Path) -> None:
    assert stated(spec(tmp_path)) is None
    of_manifest = Schema(input={"type": "object"})
    assert stated(spec(tmp_path, schema=of_manifest)) is of_manifest
    (tmp_path / "schema.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "own.json").write_text(json.dumps({"input": {"type": "object"}, "description": "own"}))
    found = stated(spec(tmp_path, schema=of_manifest, sessions=True))
    assert found is not None
    assert found.input["properties"]["parameter"]["required"] == ["top"]
    assert found.session is not None
    assert found.session.part["properties"]["payload"]["properties"]["img"]["required"] == ["image"]
    own = stated(Spec(name="m", version="1", folder=tmp_path, options={"schema": "own.json"}, schema=Schema()))
    assert own == Schema(input={"type": "object"}, description="own")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not describe an engine: Expecting value"),
        ("[]", "it must be a JSON object"),
        ('{"inputs": {}}', "Object contains unknown field `inputs`"),
        ('{"meta": []}', "meta must be an object"),
        ('{"meta": {"serviceId": 5}}', "meta.serviceId must be a string"),
        ('{"meta": {"m": {"input": {"x": {"dataType": "smell"}}}}}', "Invalid enum value 'smell'"),
        ("[" * 100_000, "does not describe an engine"),
        (" " * (2**20 + 1), "has more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "schema.json").write_text(content)
    with pytest.raises(CallFailed) as failed:
        stated(spec(tmp_path))
    assert failed.value.category is Category.UNAVAILABLE
    assert message in failed.value.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["x", "string", "integer", "text", "object"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "type", "properties"]), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_no_document_fails_in_another_way(data: st.DataObject) -> None:
    """Each place of a document may hold anything."""

    def broken(value: Any) -> Any:
        if data.draw(st.integers(0, 9)) == 0:
            return data.draw(_JSON)
        return {key: broken(one) for key, one in value.items()} if isinstance(value, dict) else value

    with suppress(ValueError):
        schema_in(json.dumps(broken(DOCUMENT)), spec(Path("/nowhere")))
