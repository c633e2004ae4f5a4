"""No input makes the decoder of requests raise anything but an error for its caller."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.requests import RequestMessage, decode_request
from penstock.errors import CallerError
from tests.athena.strategies import requests
from tests.support.athena_messages import encode_request
from tests.support.hostile_json import KEPT, REFUSED

_PLACES = [
    b"%b",
    b'{"header": %b}',
    b'{"header": {"x": %b}}',
    b'{"header": {}, "parameter": {"s": {"x": %b}}}',
    b'{"header": {}, "payload": {"s": {"text": %b}}}',
    b'{"header": {}, "payload": {"s": {"text": %b, "format": "json", "seq": %b, "status": %b, "a": %b}}}',
]


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
def test_hostile_json_in_any_place_is_refused_or_read(place: bytes, name: str) -> None:
    """Deep nesting, huge numbers, broken text."""
    body = place.replace(b"%b", KEPT.get(name) or REFUSED[name])
    with contextlib.suppress(CallerError):
        decode_request(body)


@given(st.binary(), st.sampled_from(_PLACES))
def test_any_bytes_are_refused_or_read(data: bytes, place: bytes) -> None:
    """Also where JSON around them is valid."""
    with contextlib.suppress(CallerError):
        decode_request(place.replace(b"%b", data))


@given(requests(), st.data())
def test_a_damaged_message_is_refused_or_read(message: RequestMessage, data: st.DataObject) -> None:
    """A byte changed, removed or added in a valid one."""
    body = bytearray(encode_request(message))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(CallerError):
        decode_request(bytes(body))
