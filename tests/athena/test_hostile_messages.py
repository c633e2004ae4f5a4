"""No input makes a decoder of messages raise anything but an error for its caller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.athena.protocol.requests import decode_request, encode_request
from penstock.athena.protocol.responses import Bodies, decode_response
from penstock.errors import CallerError
from tests.athena.strategies import requests
from tests.support.hostile_json import KEPT, REFUSED

Decoder = Callable[[bytes], object]
DECODERS: list[Decoder] = [
    decode_request,
    decode_response,
    lambda body: decode_response(body, Bodies.LOADER),
]
_PLACES = [
    b"%b",
    b'{"header": %b}',
    b'{"header": {"x": %b}}',
    b'{"header": {}, "parameter": {"s": {"x": %b}}}',
    b'{"header": {}, "payload": {"s": {"text": %b}}}',
    b'{"header": {}, "payload": {"s": {"text": %b, "format": "json", "seq": %b, "status": %b, "a": %b}}}',
]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("name", [*KEPT, *REFUSED])
def test_hostile_json_in_any_place_is_refused_or_read(decode: Decoder, place: bytes, name: str) -> None:
    """Deep nesting, huge numbers, broken text."""
    body = place.replace(b"%b", KEPT.get(name) or REFUSED[name])
    with contextlib.suppress(CallerError):
        decode(body)


@given(st.binary(), st.sampled_from(_PLACES), st.sampled_from(DECODERS))
def test_any_bytes_are_refused_or_read(data: bytes, place: bytes, decode: Decoder) -> None:
    """Also where JSON around them is valid."""
    with contextlib.suppress(CallerError):
        decode(place.replace(b"%b", data))


@given(requests(), st.data(), st.sampled_from(DECODERS))
def test_a_damaged_message_is_refused_or_read(message: object, data: st.DataObject, decode: Decoder) -> None:
    """A byte changed, removed or added in a valid one."""
    body = bytearray(encode_request(message))  # type: ignore[arg-type]  # a RequestMessage
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(CallerError):
        decode(bytes(body))
