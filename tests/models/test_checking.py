"""Errors about inputs, in words that their senders understand, and the detection of the types of files."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.models import media_types
from penstock.models.checking import Checker

PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
    "additionalProperties": False,
}
NPY = {"type": "string", "format": "media", "contentMediaType": "application/x-npy"}
SCHEMA = {
    "type": "object",
    "properties": {
        "who": {"anyOf": [PERSON, {"type": "null"}]},
        "people": {"type": "array", "items": {"anyOf": [PERSON, {"type": "null"}]}},
        "tone": {"enum": ["warm", "cold"]},
        "version": {"const": 3},
        "rows": {"anyOf": [{"type": "array", "items": {"type": "number"}}, NPY]},
        "either": {
            "anyOf": [{"type": "object", "required": ["url"]}, {"type": "object", "required": ["text"]}],
        },
        "number": {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
    },
}


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"who": {"age": -1}}, ["input.who.age: this value is less than the minimum of 0"]),
        (
            {"who": {"age": "x", "b": 1}},
            ["input.who.age: must be of type integer", "input.who.b: is not an input of this model"],
        ),
        ({"who": 3}, ["input.who: must be of type object"]),
        ({"people": [None, {}]}, ["input.people[1].age: is required"]),
        ({"tone": "grey"}, ['input.tone: must be one of "warm", "cold"']),
        ({"version": 4}, ["input.version: must be 3"]),
        ({"rows": "data:image/png,"}, ["input.rows: must be of media type application/x-npy"]),
        ({"rows": [1, "a"]}, ["input.rows[1]: must be of type number"]),
        ({"rows": 3}, ["input.rows: must be of type array or must be of type string"]),
        ({"either": {}}, ["input.either: url is required or text is required"]),
        ({"number": "s"}, ["input.number: must be of type integer or must be of type boolean"]),
        ([], ["input: must be of type object"]),
    ],
)
def test_a_mistake_names_its_field_and_what_is_allowed(given: Any, reported: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        Checker(SCHEMA).check(given, prefix="input")
    assert [f"{one.field}: {one.detail}" for one in refused.value.problems] == reported


def test_every_unknown_field_is_named_with_the_one_that_was_meant() -> None:
    schema = {"properties": {"text": {}, "words": {}}, "additionalProperties": False}
    with pytest.raises(InvalidInput) as refused:
        Checker(schema).check({"txt": 1, "word": 2, "colour": 3})
    assert {one.field: one.detail for one in refused.value.problems} == {
        "txt": "is not an input of this model; did you mean text?",
        "word": "is not an input of this model; did you mean words?",
        "colour": "is not an input of this model",
    }


def test_choices_within_choices_end() -> None:
    schema = {"$ref": "#/$defs/x", "$defs": {"x": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/x"}}]}}}
    value: Any = 3
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidInput) as refused:
        Checker(schema).check(value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("levels", [255, 256, 470, 5000])
def test_a_mistake_in_a_deep_value_is_refused(levels: int) -> None:
    schema = {"properties": {"text": {"type": "string"}, "several": {"uniqueItems": True}}}
    for value in ({"text": nested(levels)}, {"several": [nested(levels), nested(levels)]}):
        with pytest.raises(InvalidInput, match=r"schema; it is nested too deeply|must be of type|unique"):
            Checker(schema).check(value)


def test_a_deep_value_without_a_mistake_is_accepted() -> None:
    Checker({"properties": {"tree": {"type": "array"}}}).check({"tree": nested(470)})


def test_a_schema_may_have_200_levels() -> None:
    def schema(levels: int) -> dict[str, Any]:
        return {"type": "string"} if levels == 1 else {"items": schema(levels - 1)}

    Checker.check_schema(schema(200), "input")
    Checker({"properties": {"payload": {"properties": {"text": schema(200)}}}}).check({})
    for levels in (201, 300):
        with pytest.raises(InvalidInput, match=r"input: is nested more than 200 levels deep"):
            Checker.check_schema(schema(levels), "input")


def nested(levels: int) -> Any:
    value: Any = 3
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("stated", "data", "name", "reported"),
    [
        ("image/png", b"\xff\xd8\xff", "a.gif", "image/png"),  # what is stated is believed
        ("", b"", "rows.npy", "application/x-npy"),
        ("application/octet-stream", b"", "Photo.JPG", "image/jpeg"),
        (None, b"\x89PNG\r\n\x1a\n", "photo", "image/png"),
        (None, b"RIFF\0\0\0\0WAVEfmt ", None, "audio/wav"),
        (None, b"RIFF\0\0\0\0WEBPVP8 ", None, "image/webp"),
        (None, b"RIFF", None, "application/octet-stream"),
        (None, b"\x93NUMPY\1\0", None, "application/x-npy"),
        (None, b"what is this", "notes.tar.gz", "application/octet-stream"),
        (None, b"", "", "application/octet-stream"),
    ],
)
def test_a_file_without_a_type_is_known_by_its_name_or_its_first_bytes(
    stated: str | None, data: bytes, name: str | None, reported: str
) -> None:
    assert media_types.resolved(stated, data, name) == reported
