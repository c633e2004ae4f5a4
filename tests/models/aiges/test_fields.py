"""The JSON Schemas that are made from what an engine declares."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import InvalidInput
from penstock.models.checking import Checker
from penstock.models.replica.aiges.fields import (
    Data,
    Parameter,
    Service,
    input_schema,
    output_schema,
    part_schema,
    service_in,
)

PNG = "data:image/png;base64,iVBORw0KGgo="
OCR = Service(
    name="ocr",
    parameters=[
        Parameter(key="lang", enum=["en", "zh"], required=True),
        Parameter(key="title", min_length=2, max_length=4),
        Parameter(key="rate", type="number", minimum=0, maximum=1),
        Parameter(key="count", type="integer", minimum=1, maximum=9),
        Parameter(key="rotate", type="boolean", default=False),
    ],
    inputs=[Data(key="img", type="image"), Data(key="question", type="text")],
    outputs=[Data(key="boxes", format="json")],
)


def call(parameter: dict[str, Any] | None = None, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"parameter": {"lang": "en"} | (parameter or {}), "payload": payload or {}}


def test_the_description_is_read_back_from_the_schema() -> None:
    """Nothing that an engine declares is lost on the way through its schema."""
    assert service_in(input_schema(OCR)) == OCR


def test_a_model_without_a_description_is_not_an_engine() -> None:
    assert service_in({"type": "object"}) is None


@pytest.mark.parametrize(
    "value",
    [
        call(),
        call({"title": "ab", "rate": 0.5, "count": 9, "rotate": True, "unknown": 5}),
        call({"boxes": {"encoding": "utf8", "format": "json"}}),
        call(payload={"img": {"image": PNG, "encoding": "png", "status": 3, "seq": 0, "own": "yes"}}),
        call(payload={"question": {"text": "how many?"}, "more": {"audio": "data:audio/wav;base64,AA=="}}),
        {"header": {"sid": "a", "appid": "b", "status": 3}} | call(),
    ],
)
def test_a_call_within_the_limits_is_accepted(value: dict[str, Any]) -> None:
    Checker(input_schema(OCR)).check(value)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"payload": {}}, "parameter"),
        ({"parameter": {}}, "parameter.lang"),
        (call({"lang": "de"}), "parameter.lang"),
        (call({"title": "a"}), "parameter.title"),
        (call({"title": "abcde"}), "parameter.title"),
        (call({"rate": -0.1}), "parameter.rate"),
        (call({"rate": 1.1}), "parameter.rate"),
        (call({"count": 1.5}), "parameter.count"),
        (call({"count": 10}), "parameter.count"),
        (call({"rotate": "yes"}), "parameter.rotate"),
        (call(payload={"img": {"text": "a picture"}}), "payload.img.image"),
        (call(payload={"img": {"image": "not a picture"}}), "payload.img.image"),
        (call(payload={"img": {"image": PNG, "status": 4}}), "payload.img.status"),
        (call(payload={"img": {"image": PNG, "deep": {"a": 1}}}), "payload.img.deep"),
        (call() | {"payloads": {}}, "payloads"),
    ],
)
def test_a_call_that_breaks_a_limit_is_refused_by_the_field(value: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Checker(input_schema(OCR)).check(value)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_a_part_of_a_session_may_omit_what_earlier_parts_stated() -> None:
    """Required parameters are required once; limits hold for each part."""
    parts = Checker(part_schema(OCR))
    parts.check({"payload": {"img": {"image": PNG, "status": 2}}})
    with pytest.raises(InvalidInput):
        parts.check({"parameter": {"lang": "de"}})


def test_an_output_is_described_by_its_data_objects() -> None:
    outputs = Checker(output_schema(OCR))
    outputs.check({"payload": {"boxes": {"text": "[]", "status": 3}}})
    with pytest.raises(InvalidInput):
        outputs.check({"payload": {"boxes": {"image": PNG}}})
