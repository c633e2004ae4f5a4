"""Signatures become JSON Schema, JSON becomes arguments, and results become JSON and media."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

import penstock
from penstock import Array, Audio, BadInput, Context, File, Image
from penstock.failures import CallFailed
from penstock.models.checking import Checker
from penstock.models.replica.contract.contract import Contract
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.runtime import Segment

PIXEL = Image.from_pil(PIL.Image.new("RGB", (2, 3), "red"))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    text: Annotated[str, Field(min_length=1)]
    weight: float = 1.0


@dataclass
class Box:
    left: int
    colour: Colour = Colour.RED


class Everything:
    """Shows what a signature can say."""

    def predict(
        self,
        scale: Annotated[float, Field(ge=1, le=30, description="How large.")],
        items: list[Item],
        context: Context,
        mode: Literal["fast", "good"] = "fast",
        box: Box | None = None,
        tags: list[str] = [],  # noqa: B006  (what a user may write)
        size: int = Field(5, gt=0),
        when: date | None = None,
        price: Decimal = Decimal(1),
        either: int | list[int] = 0,
    ) -> dict[str, Any]:
        """Do everything.

        And says so.
        """
        return {}


class Pictures:
    def predict(self, image: Image, sounds: list[Audio] = [], other: File | None = None) -> dict[str, Any]:  # noqa: B006
        return {}


class Arrays:
    def predict(
        self,
        rows: Annotated[np.ndarray, Array("float32", (None, 3))],
        counts: Annotated[np.ndarray, Array("int8")] = np.zeros(0, np.int8),  # noqa: B008
    ) -> Annotated[np.ndarray, Array("float32", (None,))]:
        totals: np.ndarray = rows.sum(axis=1)
        return totals


class NoAnnotations:
    def predict(self, anything: Any):  # type: ignore[no-untyped-def]
        return anything


def refusal(contract: Contract, value: Any, *segments: Segment) -> tuple[str | None, str]:
    with pytest.raises(CallFailed) as caught:
        contract.arguments(json.dumps(value).encode(), segments)
    assert caught.value.category == "bad_input"
    return caught.value.field, caught.value.message


def returning(result: Any) -> Contract:
    """Return the contract of a model that returns that type."""

    class Model:
        def predict(self) -> Any: ...

    Model.predict.__annotations__["return"] = result
    return Contract(Model)


# Schema


def test_a_signature_becomes_a_json_schema() -> None:
    schema = Contract(Everything).schema
    assert schema.description == "Do everything.\n\nAnd says so."
    properties = schema.input["properties"]
    assert schema.input["type"] == "object"
    assert schema.input["additionalProperties"] is False
    assert schema.input["required"] == ["scale", "items"]
    assert "title" not in schema.input
    assert properties["scale"] == {"type": "number", "minimum": 1, "maximum": 30, "description": "How large."}
    assert properties["mode"] == {"type": "string", "enum": ["fast", "good"], "default": "fast"}
    assert properties["size"] == {"type": "integer", "exclusiveMinimum": 0, "default": 5}
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}, "default": []}
    assert "context" not in properties
    assert schema.input["$defs"]["Item"]["required"] == ["text"]
    assert (schema.streams, schema.batches, schema.cancels) == (False, False, True)
    Checker.check_schema(schema.input, "input")  # the host's own engine understands it
    Checker.check_schema(schema.output, "output")


def test_media_and_arrays_are_marked_in_the_schema() -> None:
    properties = Contract(Pictures).schema.input["properties"]
    assert properties["image"] == {"type": "string", "format": "media", "contentMediaType": "image/*"}
    assert properties["sounds"]["items"]["contentMediaType"] == "audio/*"
    assert properties["other"]["anyOf"][0]["contentMediaType"] == "application/octet-stream"
    schema = Contract(Arrays).schema
    rows = {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    }
    npy = {"type": "string", "format": "media", "contentMediaType": "application/x-npy"}
    assert schema.input["properties"]["rows"] == {"anyOf": [rows, npy]}
    assert schema.input["properties"]["counts"]["anyOf"][0] == {"type": ["integer", "array"]}
    assert schema.output == {"type": "array", "items": {"type": "number"}}


def test_generators_stream_what_they_yield() -> None:
    class Words:
        def predict(self) -> Iterator[str]:
            yield "a"

    class Numbers:
        async def predict(self) -> AsyncIterator[int]:
            yield 1

    class HandsOn:
        def predict(self) -> Iterator[float]:
            return iter((1.0, 2.0))

    class Silent:
        def predict(self):  # type: ignore[no-untyped-def]
            yield 1

    contracts = [Contract(model) for model in (Words, Numbers, HandsOn, Silent)]
    assert [contract.streams for contract in contracts] == [True] * 4
    assert [contract.asynchronous for contract in contracts] == [False, True, False, False]
    stated = [contract.schema.output for contract in contracts]
    assert stated == [{"type": "string"}, {"type": "integer"}, {"type": "number"}, {}]


def test_every_mistake_of_a_class_is_named_at_once() -> None:
    class Wrong:
        def predict(self, plain, image: np.ndarray, *rest: int, _hidden: int = 1, **more: int) -> PIL.Image.Image:  # type: ignore[no-untyped-def]
            raise NotImplementedError

        async def predict_batch(self, texts: str) -> dict[str, int]:
            raise NotImplementedError

        def load(self, path: str) -> None: ...

    with pytest.raises(ContractError) as caught:
        Contract(Wrong)
    text = "\n".join(caught.value.problems)
    for said in (
        "parameter plain of predict has no annotation",
        "parameter image of predict: a numpy array is annotated as Annotated",
        "predict takes *rest",
        "predict takes **more",
        "_hidden of predict begins with an underscore",
        "the result of predict: a picture is annotated as penstock.Image",
        "predict_batch must be a plain `def`",
        "parameter texts of predict_batch must be a list",
        "predict_batch must return a list",
        "load must take nothing but self",
    ):
        assert said in text
    assert len(caught.value.problems) == 10


def test_a_class_without_predict_is_refused() -> None:
    with pytest.raises(ContractError, match="it has no method predict"):
        Contract(Colour)


def test_batches_take_lists_of_what_predict_takes() -> None:
    class Good:
        def predict(self, text: Annotated[str, Field(min_length=1)]) -> int:
            return len(text)

        def predict_batch(self, texts: list[str]) -> list[int]:
            return [len(text) for text in texts]

    class Other:
        def predict(self, text: str) -> int:
            return len(text)

        def predict_batch(self, texts: list[int]) -> list[int]:
            return texts

    class Streaming:
        def predict(self) -> Iterator[int]:
            yield 1

        def predict_batch(self, calls: list[Any]) -> list[int]:
            return []

    contract = Contract(Good)
    assert contract.schema.batches
    assert contract.element({"text": "a"}) == "a"
    with pytest.raises(ContractError, match="must be a list of what predict takes"):
        Contract(Other)
    with pytest.raises(ContractError, match="cannot have predict_batch"):
        Contract(Streaming)


def test_several_parameters_become_one_object_that_does_not_change() -> None:
    element = Contract(Everything).element({"scale": 1.0, **dict.fromkeys(Contract(Everything).parameters[1:])})
    assert element.scale == 1.0
    with pytest.raises(AttributeError):
        element.scale = 2.0


# Input


def test_json_becomes_arguments_of_the_annotated_types() -> None:
    contract = Contract(Everything)
    arguments = contract.arguments(
        b'{"scale": 2, "items": [{"text": "a"}], "box": {"left": 1, "colour": "blue"}, "when": "2026-01-02"}'
    )
    assert arguments == {
        "scale": 2.0,
        "items": [Item(text="a")],
        "box": Box(1, Colour.BLUE),
        "when": date(2026, 1, 2),
        "mode": "fast",
        "tags": [],
        "size": 5,
        "price": Decimal(1),
        "either": 0,
    }
    assert contract.context == "context"


def test_defaults_are_never_shared_between_calls() -> None:
    contract = Contract(Everything)
    first, second = (contract.arguments(b'{"scale": 2, "items": []}') for _ in range(2))
    assert first["tags"] is not second["tags"]


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({"items": []}, "scale", "is required"),
        ({"scale": 99, "items": []}, "scale", "must be less than or equal to 30"),
        ({"scale": 1, "items": [{"text": "a"}, {}]}, "items[1].text", "is required"),
        ({"scale": 1, "items": [{"text": ""}]}, "items[0].text", "must have at least 1 character"),
        ({"scale": 1, "items": [], "mode": "slow"}, "mode", "must be 'fast' or 'good'"),
        ({"scale": 1, "items": [], "other": 1}, "other", "is not an input of this model"),
        ({"scale": 1, "items": [], "box": {"left": "x"}}, "box.left", "must be a valid integer"),
        ({"scale": 1, "items": [], "box": {"left": 1, "colour": "grey"}}, "box.colour", "must be 'red' or 'blue'"),
        ({"scale": 1, "items": [], "either": "x"}, "either", "must be a valid integer"),
        ({"scale": 1, "items": [], "either": {}}, "either", "must be a valid integer or must be a valid array"),
        ([], None, "must be an object"),
    ],
)
def test_a_violation_names_its_field_and_what_is_allowed(value: Any, field: str | None, words: str) -> None:
    named, message = refusal(Contract(Everything), value)
    assert named == field
    assert words in message


def test_several_violations_are_reported_together() -> None:
    field, message = refusal(Contract(Everything), {"scale": 0, "items": 1})
    assert field == "scale"
    assert "items must be a valid array" in message


def test_malformed_json_is_refused() -> None:
    for segments in ((), (Segment(b"", "image/png", ("image",)),)):
        with pytest.raises(CallFailed, match="is not valid JSON") as caught:
            Contract(Pictures).arguments(b'{"image": ', segments)
        assert caught.value.category == "bad_input"


# Media


def test_segments_arrive_at_their_paths() -> None:
    arguments = Contract(Pictures).arguments(
        b'{"image": null, "sounds": [null, null], "other": null}',
        [
            Segment(memoryview(b"picture"), "image/jpeg", ("image",), "cat.jpg"),
            Segment(b"low", "audio/wav", ("sounds", 0)),
            Segment(b"high", "audio/ogg", ("sounds", 1)),
            Segment(b"text", "text/plain", ("other",)),
        ],
    )
    assert arguments == {
        "image": Image(b"picture", "image/jpeg", "cat.jpg"),
        "sounds": [Audio(b"low", "audio/wav"), Audio(b"high", "audio/ogg")],
        "other": File(b"text", "text/plain"),
    }


def test_dates_and_enums_are_read_beside_segments_too() -> None:
    class Dated:
        def predict(self, image: Image, when: Annotated[date, Field(strict=True)], colours: tuple[Colour, ...]) -> str:
            return ""

    arguments = Contract(Dated).arguments(
        b'{"image": null, "when": "2026-01-02", "colours": ["red"]}', [Segment(b"", "image/png", ("image",))]
    )
    assert arguments["when"] == date(2026, 1, 2)
    assert arguments["colours"] == (Colour.RED,)


def test_media_may_be_a_data_url() -> None:
    contract = Contract(Pictures)
    arguments = contract.arguments(json.dumps({"image": PIXEL.url(), "other": "data:,a%20b"}).encode())
    assert arguments["image"] == PIXEL
    assert arguments["other"] == File(b"a b", "text/plain")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:audio/wav;base64,AAAA", "must be of media type image/*, not audio/wav"),
        ("data:image/png;base64,A", "its base64 is not valid"),
        ("data:image/png;base64,AA=A", "its base64 is not valid"),
        ("data:image/png;base64,A A A", "its base64 is not valid"),
        ("data:image/png;base64,äöü", "its base64 is not valid"),
        ("data:image/png", "must be a data: URL"),
        ("data:" + "x" * 100_000, "must be a data: URL"),
        ("data:<script>;base64,AAAA", "media type must be like image/png"),
        ("https://example.com/cat.png", "must be a data: URL"),
        ("/etc/passwd", "must be a data: URL"),
        (7, "must be media of type image/*"),
        (None, "must be media of type image/*"),
    ],
)
def test_hostile_media_get_a_clear_error(url: Any, words: str) -> None:
    field, message = refusal(Contract(Pictures), {"image": url})
    assert field == "image"
    assert words in message


@given(st.text())
def test_no_text_makes_a_data_url_fail_in_another_way(text: str) -> None:
    for url in (text, f"data:{text}", f"data:image/png;base64,{text}"):
        with suppress(ValueError):
            Image.of_url(url)


@given(st.binary())
def test_data_urls_bring_back_what_was_written(data: bytes) -> None:
    assert Image.of_url(Image(data).url()).data == data


def test_a_segment_of_another_type_or_at_no_place_is_refused() -> None:
    contract = Contract(Pictures)
    assert refusal(contract, {"image": None}, Segment(b"", "audio/wav", ("image",))) == (
        "image",
        "must be of media type image/*, not audio/wav",
    )
    assert refusal(contract, {"image": None}, Segment(b"", "nonsense", ("image",)))[0] == "image"
    for path in (("away",), ("image", 0), ("sounds", 3), ()):
        assert "takes no media" in refusal(contract, {"image": None, "sounds": []}, Segment(b"", path=path))[1]


def test_media_never_change_and_do_not_print_their_bytes() -> None:
    image = Image(b"x" * 1000, "IMAGE/PNG", "a.png")
    assert repr(image) == "Image(<1000 bytes>, 'image/png', name='a.png')"
    with pytest.raises(AttributeError):
        image.name = "b.png"
    with pytest.raises(ValueError, match="must be of media type audio"):
        Audio(b"", "image/png")


def test_pictures_open_and_encode() -> None:
    picture = PIXEL.open()
    assert (picture.size, picture.getpixel((0, 0))) == ((2, 3), (255, 0, 0))
    assert Image.from_pil(picture, "jpeg").media_type == "image/jpeg"
    with pytest.raises(ValueError, match="Pillow writes"):
        Image.from_pil(picture, "nonsense")


def test_an_upright_picture_is_turned_and_bounded() -> None:
    picture = PIL.Image.new("L", (4, 2), 0)
    picture.putpixel((0, 0), 255)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", exif=exif)
    turned = Image(encoded.getvalue()).upright()
    assert (turned.mode, turned.size, turned.getpixel((1, 0))) == ("RGB", (2, 4), (255, 255, 255))
    assert Image(encoded.getvalue()).upright(max_pixels=8).size == (2, 4)
    with pytest.raises(BadInput, match="4 × 2 pixels; at most 7"):
        Image(encoded.getvalue()).upright(max_pixels=7)
    with pytest.raises(BadInput, match="cannot be read"):
        Image(encoded.getvalue()[:40]).upright()


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"not a picture", PIXEL.data[:40], PIXEL.data[:-30]])
def test_broken_pictures_are_the_callers_fault(data: bytes) -> None:
    with pytest.raises(BadInput, match="cannot be read as a picture"):
        Image(data).open()


# Arrays


def npy(array: Any) -> bytes:
    encoded = io.BytesIO()
    np.save(encoded, array)
    return encoded.getvalue()


def test_lists_and_npy_files_become_arrays_of_the_stated_type() -> None:
    contract = Contract(Arrays)
    rows = contract.arguments(b'{"rows": [[1, 2, 3], [4, 5, 6.5]]}')["rows"]
    assert (rows.dtype, rows.tolist()) == (np.float32, [[1, 2, 3], [4, 5, 6.5]])
    rows[0, 0] = 7  # the model's own
    assert contract.arguments(b'{"rows": []}')["rows"].shape == (0, 3)
    orders: tuple[Literal["C", "F"], ...] = ("C", "F")
    for order in orders:
        data = npy(np.arange(6.0).reshape(2, 3).copy(order))
        arguments = contract.arguments(b'{"rows": null}', [Segment(data, "application/x-npy", ("rows",))])
        assert arguments["rows"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert arguments["rows"].flags.writeable
    url = f"data:application/x-npy;base64,{base64.b64encode(npy(np.ones((1, 3)))).decode()}"
    assert contract.arguments(json.dumps({"rows": url}).encode())["rows"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"rows": [[1, 2]]}, "must have the shape [any, 3], not [1, 2]"),
        ({"rows": [1, 2, 3]}, "must have the shape [any, 3], not [3]"),
        ({"rows": [[1, 2, 3], [4]]}, "each as long as its neighbours"),
        ({"rows": [["a", "b", "c"]]}, "must hold numbers only"),
        ({"rows": [[None, 1, 2]]}, "must hold numbers only"),
        ({"rows": [[1e300, 1, 2]]}, "must hold numbers that float32 can hold"),
        ({"rows": {}}, "must be nested lists of numbers"),
        ({"rows": [], "counts": [300]}, "must hold integers that int8 can hold"),
        ({"rows": [], "counts": [1.5]}, "must hold integers that int8 can hold"),
        ({"rows": [], "counts": [2**80]}, "must hold integers only"),
        ({"rows": [], "counts": [True]}, "must hold integers only"),
    ],
)
def test_lists_that_do_not_fit_are_refused(value: Any, words: str) -> None:
    field, message = refusal(Contract(Arrays), value)
    assert field == ("counts" if "counts" in value else "rows")
    assert words in message


def lying_npy() -> bytes:
    """Return a header that promises four terabytes."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\xff\xff{'a': ",
        npy(np.ones((2, 3)))[:-1],
        npy(np.ones((2, 3))) + b"x",
        npy(np.array([["text"] * 3])),
        b"\x80\x04cos\nsystem\n",
        lying_npy(),
    ],
)
def test_hostile_npy_files_are_refused(data: bytes) -> None:
    field, _ = refusal(Contract(Arrays), {"rows": None}, Segment(data, "application/x-npy", ("rows",)))
    assert field == "rows"


def test_an_npy_of_python_objects_is_not_unpickled() -> None:
    data = io.BytesIO()
    np.save(data, np.array([[object, 1, 2]], dtype=object), allow_pickle=True)
    _, message = refusal(Contract(Arrays), {"rows": None}, Segment(data.getvalue(), "application/x-npy", ("rows",)))
    assert "is not an .npy file of numbers" in message


def test_an_array_describes_only_an_array() -> None:
    with pytest.raises(ValueError, match="dtype must be"):
        Array("complex64")
    with pytest.raises(ValueError, match="shape must hold"):
        Array(shape=(-1,))

    class Wrong:
        def predict(self, rows: Annotated[list[float], Array()]) -> int:
            return 0

    with pytest.raises(ContractError, match=r"describes a numpy\.ndarray"):
        Contract(Wrong)


# Output


def test_results_are_written_as_annotated() -> None:
    assert returning(list[float]).output([1, 2.5]).json == b"[1.0,2.5]"
    assert json.loads(returning(Box).output(Box(1, Colour.BLUE)).json) == {"left": 1, "colour": "blue"}
    assert json.loads(returning(Item).output(Item(text="a")).json) == {"text": "a", "weight": 1.0}
    assert Contract(Arrays).output(np.array([1.5, 2])).json == b"[1.5,2.0]"


def test_values_of_numpy_pass_where_pythons_own_are_stated() -> None:
    assert returning(list[float]).output(np.array([1, 2])).json == b"[1.0,2.0]"
    assert returning(int).output(np.int64(3)).json == b"3"
    assert json.loads(returning(Box).output(Box(np.int32(3))).json) == {"left": 3, "colour": "red"}  # type: ignore[arg-type]  # as meant
    assert json.loads(returning(dict[str, list[float]]).output({"v": np.ones(2)}).json) == {"v": [1, 1]}


def test_a_result_of_another_type_is_the_models_fault() -> None:
    for stated, value, where in (
        (list[int], ["x"], "[0] of what it returned must be a valid integer"),
        (Box, Box("x"), "left of what it returned must be a valid integer"),  # type: ignore[arg-type]  # the mistake
        (Image, b"raw", ": what it returned must be media of type image/*"),
        (str, None, "must be a valid string"),
    ):
        with pytest.raises(CallFailed) as caught:
            returning(stated).output(value)
        assert caught.value.category == "internal"
        assert where in caught.value.message


def test_an_output_without_annotation_is_converted_as_far_as_possible() -> None:
    contract = Contract(NoAnnotations)
    assert contract.schema.output == {}
    written = contract.output(
        {"array": np.arange(3), "scalar": np.float32(0.5), "box": Box(1), "bytes": b"\xff", "none": None}
    )
    assert json.loads(written.json) == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "box": {"left": 1, "colour": "red"},
        "bytes": "_w==",
        "none": None,
    }
    with pytest.raises(CallFailed, match="a object cannot be written as JSON"):
        contract.output(object())


@dataclass
class Score:
    value: float
    margin: float | None = None


class Loose(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("stated", "make", "where"),
    [
        (float, lambda odd: odd, ""),
        (float | None, lambda odd: odd, ""),
        (list[float | None], lambda odd: [1.0, None, odd], "[2]"),
        (dict[str, float], lambda odd: {"mood": odd}, "mood"),
        (Score, lambda odd: Score(0.5, odd), "margin"),
        (list[Item], lambda odd: [Item(text="a"), Item(text="b", weight=odd)], "[1].weight"),
        (Loose, lambda odd: Loose(value=odd), "value"),
        (dict[str, Any], lambda odd: {"a": [np.float32(odd)]}, "a[0]"),
        (dict[str, Any], lambda odd: {"image": PIXEL, "score": Score(odd)}, "score.value"),
        (Any, lambda odd: {"a": [odd]}, "a[0]"),
        (Any, lambda odd: np.array([[1, odd]]), "[0][1]"),
        (Any, Score, "value"),
        (Annotated[np.ndarray, Array("float32", (None,))], lambda odd: np.array([0, odd], "float32"), "[1]"),
    ],
)
def test_numbers_that_are_not_finite_break_the_contract(stated: Any, make: Any, where: str, odd: float) -> None:
    with pytest.raises(CallFailed, match="is NaN or infinite, which JSON cannot hold") as caught:
        returning(stated).output(make(odd))
    assert caught.value.category == "internal"
    assert f": {where} of what it returned is NaN".replace("  of ", " ") in caught.value.message


def test_null_and_words_that_look_like_numbers_are_written_as_they_are() -> None:
    given = {"a": None, "b": "NaN", "c": ["-Infinity", None], "image": PIXEL}
    for stated in (dict[str, Any], Any):
        output = returning(stated).output(given)
        assert json.loads(output.json) == {"a": None, "b": "NaN", "c": ["-Infinity", None], "image": None}
        assert len(output.segments) == 1


def test_media_are_returned_beside_the_json() -> None:
    sound = Audio(b"beep", name="beep.wav")
    for contract in (returning(dict[str, Any]), Contract(NoAnnotations)):
        output = contract.output({"ü": [PIXEL, {"sound": sound}], "n": 2**80})
        assert json.loads(output.json) == {"ü": [None, {"sound": None}], "n": 2**80}
        assert list(output.segments) == [
            Segment(PIXEL.data, "image/png", ("ü", 0)),
            Segment(b"beep", "audio/wav", ("ü", 1, "sound"), "beep.wav"),
        ]


def test_media_may_be_the_whole_output_or_fields_of_objects() -> None:
    whole = returning(Image).output(PIXEL)
    assert (whole.json, list(whole.segments)) == (b"null", [Segment(PIXEL.data, "image/png")])

    class Answer(BaseModel):
        pictures: list[Image]
        note: str = ""

    inside = returning(Answer).output(Answer(pictures=[PIXEL, PIXEL]))
    assert json.loads(inside.json) == {"pictures": [None, None], "note": ""}
    assert [segment.path for segment in inside.segments] == [("pictures", 0), ("pictures", 1)]
    schema = returning(Answer).schema.output
    assert schema["properties"]["pictures"]["items"]["contentMediaType"] == "image/*"


def test_a_text_that_looks_like_a_placeholder_stays_a_text() -> None:
    output = returning(list[Any]).output(["media:0", PIXEL])
    assert json.loads(output.json) == ["media:0", None]


# The package


def test_importing_penstock_loads_nothing_heavy() -> None:
    code = (
        "import sys, penstock; assert not {'aiohttp', 'asyncpg', 'pydantic'} & set(sys.modules);"
        "from penstock import Array, Audio, BadInput, Context, File, Image, context;"
        "assert not {'aiohttp', 'asyncpg', 'numpy', 'PIL', 'structlog'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_exported_name_exists() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
