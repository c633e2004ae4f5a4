"""The call of an engine, between JSON and data objects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import kinds
from penstock.models.replica.aiges.calls import Item, read, text_of, write
from penstock.models.replica.runtime import Segment

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


def as_call(value: Any, *segments: Segment) -> Any:
    return read(msgspec.json.encode(value), segments)


def test_scalars_are_parameters_and_objects_are_expected_outputs() -> None:
    stated = {"lang": "en", "rate": 16000, "loud": True, "gone": None, "boxes": {"format": "json", "top": 5}}
    call = as_call({"header": {"appid": "a", "status": 3}, "parameter": stated})
    assert call.params == {"lang": "en", "rate": "16000", "loud": "true"}
    assert call.expected == {"boxes": {"format": "json", "top": "5"}}
    assert call.header == {"appid": "a", "status": "3"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (16000, "16000"),
        (16000.0, "16000"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (False, "false"),
        ("1e3", "1e3"),
        (-5, "-5"),
    ],
)
def test_numbers_stay_decimal(value: Any, text: str) -> None:
    """16000 never becomes 8796093022208000p-39, as it does in the original."""
    assert text_of(value) == text


def test_media_come_from_segments_and_text_from_the_json() -> None:
    payload = {
        "img": {"image": None, "encoding": "png", "status": 1, "seq": 2},
        "question": {"text": "how many?"},
    }
    call = as_call({"payload": payload}, Segment(PNG, "image/png", ("payload", "img", "image")))
    assert call.items == [
        Item("img", PNG, kinds.IMAGE, kinds.CONTINUE, {"encoding": "png", "seq": "2"}),
        Item("question", b"how many?", kinds.TEXT, kinds.ONCE),
    ]


def test_text_that_is_not_utf8_comes_as_media() -> None:
    chinese = "文".encode("gb2312")
    call = as_call({"payload": {"a": {"text": None}}}, Segment(chinese, "text/plain", ("payload", "a", "text")))
    assert call.items == [Item("a", chinese)]


def test_media_may_be_data_urls() -> None:
    call = as_call({"payload": {"a": {"audio": "data:audio/wav;base64,AAEC"}}})
    assert call.items == [Item("a", b"\0\1\2", kinds.AUDIO)]


def test_the_header_is_passed_on_where_it_is_wanted() -> None:
    call = as_call({"header": {"appid": "a", "uid": "u"}, "parameter": {"lang": "en"}})
    assert call.passed(("uid", "absent"), "sid-1") == {"uid": "u", "lang": "en", "sid": "sid-1"}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"payload": {"a": {}}}, "payload.a"),
        ({"payload": {"a": {"text": "a", "image": None}}}, "payload.a"),
        ({"payload": {"a": {"text": None}}}, "payload.a.text"),
        ({"payload": {"a": {"image": None}}}, "payload.a.image"),
        ({"payload": {"a": {"image": "aGVsbG8="}}}, "payload.a.image"),
        ({"payload": {"a": {"image": "data:image/png;base64,?"}}}, "payload.a.image"),
        ({"payload": {"a": {"text": "a", "status": 4}}}, "payload.a.status"),
        ({"payload": {"a": {"text": "a", "status": True}}}, "payload.a.status"),
        ({"payload": {"a": "text"}}, None),
        ({"parameter": {"a": [1]}}, None),
        ([], None),
    ],
)
def test_what_is_not_the_call_of_an_engine_is_refused(value: Any, field: str | None) -> None:
    with pytest.raises(CallFailed) as caught:
        as_call(value)
    assert caught.value.category is Category.BAD_INPUT
    assert caught.value.field == field


def test_results_are_text_and_media() -> None:
    output = write([Item("boxes", b"[1]", attributes={"format": "json"}), Item("img", PNG, kinds.IMAGE, kinds.END)])
    assert msgspec.json.decode(output.json) == {
        "payload": {
            "boxes": {"format": "json", "text": "[1]", "status": 3},
            "img": {"image": None, "status": 2},
        }
    }
    assert output.segments == [Segment(PNG, "image/png", ("payload", "img", "image"))]


def test_the_last_of_several_results_with_one_key_stays() -> None:
    output = write([Item("a", PNG, kinds.IMAGE), Item("a", b"text")])
    assert msgspec.json.decode(output.json) == {"payload": {"a": {"text": "text", "status": 3}}}
    assert output.segments == []


_items = st.lists(
    st.builds(
        Item,
        key=st.text(min_size=1),
        data=st.binary(),
        kind=st.integers(0, 4),
        status=st.integers(0, 3),
        attributes=st.dictionaries(st.text().filter(lambda name: name not in {*kinds.NAMES, "status"}), st.text()),
    ),
    unique_by=lambda item: item.key,
)


@given(_items)
def test_what_is_written_is_read_back(items: list[Item]) -> None:
    output = write(items)
    assert read(output.json, output.segments).items == items
