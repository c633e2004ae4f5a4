"""Values of flow code as JSON, and JSON as values."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec
import pydantic_core
from msgspec import Raw
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from penstock.errors import dotted
from penstock.finite import first_not_finite
from penstock.models.replica.contract.media import File
from penstock.models.replica.errors import text_of

MAX_VALUE_BYTES: Final = 16 * 2**20  # of one input, payload or recorded value; larger media go by reference

_decode: Final = msgspec.json.Decoder().decode


def encode(value: Any, what: str) -> bytes:
    """Return a value as JSON. Raises ValueError, which names ``what``.

    Takes JSON's own types, pydantic's models, dataclasses, times, UUIDs and media, which become ``data:`` URLs.
    """
    try:
        written = pydantic_core.to_json(value, fallback=_fallback, bytes_mode="base64", inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        reason = (text_of(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what} cannot be written as JSON: {reason}") from None
    if b"NaN" in written or b"Infinity" in written:
        place = first_not_finite(pydantic_core.to_jsonable_python(value, fallback=_fallback, inf_nan_mode="constants"))
        if place is not None:
            raise ValueError(f"{what} holds NaN or an infinity{_at(place)}, which JSON cannot hold")
    if len(written) > MAX_VALUE_BYTES:
        raise ValueError(
            f"{what} takes {len(written)} bytes of JSON, but at most {MAX_VALUE_BYTES} are allowed: "
            "upload large data as a blob and pass its id"
        )
    return written


def decode(value: Raw | None) -> Any:
    """Return the value of JSON; None for none."""
    return None if value is None else _decode(value)


def digest(written: bytes) -> bytes:
    """Return a hash of 16 bytes of the JSON."""
    return hashlib.blake2b(written, digest_size=16).digest()


@lru_cache(maxsize=1000)
def adapter(expected: Any) -> TypeAdapter[Any]:
    """Return the validator of a type."""
    return TypeAdapter(expected)


def _fallback(value: Any) -> Any:
    if isinstance(value, File):
        return value.url()
    if hasattr(value, "tolist"):  # of numpy
        return value.tolist()
    raise TypeError(f"a {type(value).__qualname__} cannot be written as JSON")


def _at(place: tuple[str | int, ...]) -> str:
    return f" at {dotted(place)}" if place else ""
