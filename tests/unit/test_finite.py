"""Numbers that are not finite are found, with their place, and refused with the name of the field."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput
from penstock.finite import NOT_FINITE, first_not_finite, not_finite_in
from penstock.models.replica.program_lines import read
from penstock.web.reading import decode

FAR = b"1" + b"0" * 400 + b".5"


@pytest.mark.parametrize(
    ("json", "held"),
    [
        (b'{"a": [1, {"b": NaN}]}', NOT_FINITE),
        (b"-Infinity", NOT_FINITE),
        (b'{"a": [1, {"b": 1e999}]}', "a number out of range at a[1].b"),
        (b"-1e400", "a number out of range"),
        (b"[" + FAR + b"]", "a number out of range at [0]"),
        (b'{"NaN": "1e999"}', None),
        (b"9" * 400, None),  # an integer has no largest value
        (b"[1e308, 1e-999]", None),
        (b"{NaN", None),
    ],
)
def test_the_number_that_makes_a_text_invalid_json_is_named(json: bytes, held: str | None) -> None:
    assert not_finite_in(json) == held


def test_the_first_place_is_found_at_any_depth() -> None:
    nested: Any = math.inf
    for _ in range(5000):
        nested = [nested]
    assert first_not_finite({"a": 1.0, "b": nested, "c": math.nan}) == ("b", *(0 for _ in range(5000)))
    assert first_not_finite({"a": [1.0, (2, math.nan)], "c": math.inf}) == ("a", 1, 1)
    assert first_not_finite({"a": "inf", "b": [1e308]}) is None


@pytest.mark.parametrize(
    ("body", "prefix", "field"),
    [
        (b'{"a": {"b": [1, -1e999]}, "c": 1e999}', "", "a.b[1]"),
        (b"1e999", "", "body"),
        (b'{"a": 1e999}', "jobs[2].input", "jobs[2].input.a"),
        (b'{"a": [7, ' + b"9" * 5000 + b"]}", "", "a[1]"),
        (b"[" * 490 + b"1e999" + b"]" * 490, "", "[0]" * 490),
    ],
)
def test_a_body_with_a_number_out_of_range_names_the_field(body: bytes, prefix: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(body, msgspec.json.Decoder(), prefix=prefix)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert problem.detail.startswith("is a number out of range; allowed are")


@pytest.mark.parametrize("final", [True, False])
def test_a_program_that_writes_a_number_out_of_range_fails_the_call_and_stays_in_step(final: bool) -> None:
    line = msgspec.json.encode({"final": final, "output": [0]}).replace(b"[0]", b"[1, 1e999]")
    said = read(line)
    assert (said.final, said.output) == (final, None)
    assert said.error is not None
    assert said.error.message == "the program's output holds a number out of range at output[1]"
    assert read(b"1e999").error is not None
