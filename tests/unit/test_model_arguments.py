"""The arguments of ``penstock model predict`` as the input of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from penstock.cli.model_arguments import CallInput, call_input, place

NUMBER = {"type": "number"}
TEXT = {"type": "string"}
PICTURE = {"type": "string", "format": "media", "contentMediaType": "image/*"}


def object_of(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", NUMBER, 5),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("words", {}, "words"),
        ("5", TEXT, "5"),
        ("5", None, 5),
        ("5", object_of("number", number=NUMBER), {"number": 5}),
        ("5", object_of("text", text=TEXT, words=NUMBER), {"text": "5"}),
        ("5", object_of(number=NUMBER), {"number": 5}),
    ],
)
def test_a_single_value_is_the_whole_input_or_its_only_field(text: str, schema: Any, value: Any) -> None:
    assert call_input([text], None, None) == text
    assert place(text, schema) == CallInput(value, None)


def test_a_single_value_is_a_file_where_the_model_takes_one(tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    picture.write_bytes(b"")
    schema = object_of("image", image=PICTURE)
    assert place(str(picture), schema) == CallInput(None, {"image": picture})
    assert place("data:image/png,", schema) == CallInput({"image": "data:image/png,"}, None)
    with pytest.raises(typer.BadParameter, match="there is no file"):
        place(str(tmp_path / "blue.png"), schema)


def test_a_single_value_beside_a_file_is_the_other_field(tmp_path: Path) -> None:
    schema = object_of("image", "text", image=PICTURE, text=TEXT)
    assert place("hello", schema, {"image": tmp_path}) == CallInput({"text": "hello"}, {"image": tmp_path})


def test_the_error_for_a_single_value_names_the_fields() -> None:
    with pytest.raises(typer.BadParameter, match="the model's fields are text, words"):
        place("5", object_of("text", "words", text=TEXT, words=NUMBER))


def test_fields_override_the_whole_input() -> None:
    assert call_input(["words=2"], '{"text": "a"}', None) == CallInput({"text": "a", "words": 2}, None)
    assert call_input(None, None, None) == CallInput(None, None)
    assert call_input(["text=NaN"], None, None) == CallInput({"text": "NaN"}, None)


@pytest.mark.parametrize(
    ("fields", "whole"), [(["a", "b"], None), (["a"], "{}"), (["=a"], None), (["a=1", "b"], None), (["a=1"], "[]")]
)
def test_invalid_fields_are_refused(fields: list[str], whole: str | None) -> None:
    with pytest.raises(typer.BadParameter):
        call_input(fields, whole, None)
