"""Every wrong field is named, with the values that are allowed there."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Raw, Struct

from penstock.checking import converted
from penstock.errors import InvalidInput
from penstock.web.reading import decode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Wheel(Struct, forbid_unknown_fields=True):
    spokes: int
    rim: Literal["thin", "wide"] = "thin"


class Cart(Struct, forbid_unknown_fields=True, rename={"kind": "type"}):
    kind: str
    wheels: list[Wheel]
    colour: Colour | None = None
    load: Annotated[int, Meta(ge=0)] | Literal["none"] = 0
    parts: dict[str, Literal["wood", "iron"]] = {}
    notes: list[Raw] = []


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({}, ["type: is required", "wheels: is required"]),
        (
            {"type": 3, "wheels": [], "colour": "green"},
            ["type: expected `str`, got `int`", "colour: must be one of red, blue"],
        ),
        (
            {"type": "x", "wheels": [{"spokes": 8}, {"rim": "thin"}]},
            ["wheels[1].spokes: is required"],
        ),
        (
            {"type": "x", "wheels": [{"rim": "thin"}, {"spokes": 8}, {"spokes": "x", "rim": "flat"}]},
            [
                "wheels[0].spokes: is required",
                "wheels[2].spokes: expected `int`, got `str`",
                "wheels[2].rim: must be one of thin, wide",
            ],
        ),
        (
            {"type": "x", "wheels": [{"spokes": 8}] * 500 + [{"rim": "thin"}]},
            ["wheels[500].spokes: is required"],
        ),
        (
            {"type": "x", "wheels": [{"spokes": 8, "tyre": 1}]},
            ["wheels[0].tyre: is not known here; there are: spokes, rim"],
        ),
        ({"type": "x", "wheels": [{"spokes": 1, "rim": "round"}]}, ["wheels[0].rim: must be one of thin, wide"]),
        (
            {"type": "x", "wheels": [], "kind": "y", "load": -1},
            [
                "kind: is not known here; there are: type, wheels, colour, load, parts, notes",
                "load: expected `int` >= 0",
            ],
        ),
        ({"type": "x", "wheels": [], "load": "much"}, ["load: must be one of none"]),
        ({"type": "x", "wheels": [], "parts": {"a": "wood", "b": "gold"}}, ["parts[]: must be one of iron, wood"]),
        ({"type": "x", "wheels": [], "notes": {}}, ["notes: expected `array`, got `object`"]),
    ],
)
def test_every_mistake_is_reported(given: dict[str, Any], reported: list[str]) -> None:
    decoder = msgspec.json.Decoder(Cart)
    for read in (partial(decode, msgspec.json.encode(given), decoder), partial(converted, given, Cart)):
        with pytest.raises(InvalidInput) as refused:
            read()
        assert [f"{one.field}: {one.detail}" for one in refused.value.problems] == reported


def test_a_value_that_is_not_an_object_is_reported_as_a_whole() -> None:
    for body in (b"[]", b"3", b'"x"', b"null"):
        with pytest.raises(InvalidInput, match=r"^body: expected `object`"):
            decode(body, msgspec.json.Decoder(Cart))


def test_a_hundred_thousand_mistakes_are_reported_in_a_few_lines() -> None:
    body = msgspec.json.encode({f"x{number}": 1 for number in range(100_000)})
    with pytest.raises(InvalidInput) as refused:
        decode(body, msgspec.json.Decoder(Cart))
    assert len(refused.value.problems) == 20
    assert len(str(refused.value)) < 2000


def test_numbers_that_only_json_can_express_are_refused() -> None:
    for body in (b'{"type": 1e999, "wheels": []}', b'{"type": "x", "wheels": [{"spokes": 1e999}]}'):
        with pytest.raises(InvalidInput):
            decode(body, msgspec.json.Decoder(Cart))


def test_valid_input_is_accepted() -> None:
    body = b'{"type": "x", "wheels": [{"spokes": 1}], "notes": [1, {"a": []}], "load": "none"}'
    cart = decode(body, msgspec.json.Decoder(Cart))
    assert [bytes(note) for note in cart.notes] == [b"1", b'{"a": []}']
    assert converted({"type": "x", "wheels": []}, Cart) == Cart(kind="x", wheels=[])


def test_a_long_unknown_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as refused:
        converted({"x" * 10_000: 1, "type": "x", "wheels": []}, Cart)
    assert len(str(refused.value)) < 300
