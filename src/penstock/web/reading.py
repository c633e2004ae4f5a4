"""Read typed values from request bodies and queries, with errors that name the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from penstock import checking
from penstock.errors import InvalidInput, MalformedBody, TooLarge, Unsupported, dotted
from penstock.finite import first_not_finite

T = TypeVar("T")
BODY_ERRORS: Final = (MalformedBody, InvalidInput, TooLarge, Unsupported)  # of reading a JSON body
Moment = Annotated[datetime, Meta(tz=True)]

_MAX_DEPTH = 500  # levels of nesting in a body
_MAX_DIGITS = 400  # of a number in an error; floats have 309
_LARGE = 16 * 1024  # bytes
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def decode(body: bytes, decoder: msgspec.json.Decoder[T], *, prefix: str = "") -> T:
    """Return a typed value from a JSON body, or from the part of one at ``prefix``.

    Raises MalformedBody for a body that is not JSON, not UTF-8 or nested too deeply, and InvalidInput for fields that
    break a rule.
    """
    if not body:
        raise MalformedBody("the body is empty; it must be JSON")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise MalformedBody("the body is not valid UTF-8") from None
    if _has_many_brackets(body) and _depth(body) > _MAX_DEPTH:
        raise MalformedBody(f"the body is nested more than {_MAX_DEPTH} levels deep")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if str(error).startswith(("Number out of range", "Integer value out of range")):
            raise _out_of_range(body, prefix) from None
        raise _mistakes(body, decoder.type, str(error)) from None
    except RecursionError:
        raise MalformedBody(f"the body is nested more than {_MAX_DEPTH} levels deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None


def _out_of_range(body: bytes, prefix: str) -> InvalidInput:
    place = first_not_finite(json.loads(body, parse_int=_integer)) or ()
    field = dotted((prefix, *place) if prefix else place) or "body"
    return InvalidInput.of(field, "is a number out of range; allowed are those up to ±1.7976931348623157e308")


def _integer(text: str) -> float:
    """Return a number; one with more digits than Python converts is infinite."""
    return int(text) if len(text) < _MAX_DIGITS else math.inf


def _mistakes(body: bytes, kind: object, first: str) -> InvalidInput:
    """Return every mistake in a body; only the first where the body cannot be decoded without its type."""
    try:
        problems = checking.all_of(msgspec.json.decode(body), kind)
    except (msgspec.DecodeError, RecursionError):
        problems = []
    return InvalidInput(problems) if problems else checking.invalid(first, kind)


def convert(values: Mapping[str, Any], to: type[T]) -> T:
    """Return a typed value from query parameters, which are all text; raises InvalidInput."""
    try:
        converted = msgspec.convert(values, to, strict=False)
    except msgspec.ValidationError as error:
        raise checking.invalid(str(error), to) from None
    for field in msgspec.structs.fields(to):  # type: ignore[arg-type]  # a Struct
        name = field.encode_name
        if name in values and getattr(converted, field.name) is None:  # msgspec reads the text "null" as None
            raise InvalidInput.of(name, "must be a value; leave the parameter out instead")
    return converted


def moment(text: str, name: str) -> datetime:
    """Parse a time from a query; raises InvalidInput."""
    try:
        found: datetime = msgspec.convert(text, Moment)
    except msgspec.ValidationError:
        raise InvalidInput.of(name, "must be a time with its offset, such as 2026-01-30T09:00:00Z") from None
    check_moment(found, name)
    return found


def check_moment(found: datetime | None, name: str) -> None:
    """Raise InvalidInput for a time so near the ends of the calendar that another zone could not express it."""
    if found is not None and not 1 < found.year < 9999:
        raise InvalidInput.of(name, "must lie in the years 2 to 9998")


def _has_many_brackets(body: bytes) -> bool:
    """Return whether a body may be nested too deeply. Large ones are mostly text, in which ``find`` is quick."""
    if len(body) < _LARGE:
        return body.count(b"[") + body.count(b"{") > _MAX_DEPTH
    left = _MAX_DEPTH
    for bracket in (b"[", b"{"):
        at = body.find(bracket)
        while at >= 0:
            left -= 1
            if left < 0:
                return True
            at = body.find(bracket, at + 1)
    return False


def _depth(body: bytes) -> int:
    """Return the deepest nesting of brackets outside strings."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
