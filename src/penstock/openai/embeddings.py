"""Embeddings: vectors of numbers, as lists or as little-endian float32 in base64."""

from __future__ import annotations

import struct
from base64 import b64decode
from binascii import Error as NotBase64
from typing import Any

import msgspec
from msgspec import Struct

from penstock.failures import CallFailed, Category


class Embedding(Struct):
    index: int
    embedding: list[float] | str  # a text is base64 of float32, little-endian


class Embeddings(Struct):
    """A server's response."""

    data: list[Embedding]
    model: str | None = None
    usage: dict[str, Any] | None = None

    def vectors(self) -> list[list[float]]:
        """Return the vectors in the order of their inputs. Raises CallFailed (``provider_error``)."""
        return [_numbers(one.embedding) for one in sorted(self.data, key=lambda one: one.index)]


def embeddings(body: bytes, expected: int) -> Embeddings:
    """Return a server's response, typed, with ``expected`` vectors. Raises CallFailed (``provider_error``)."""
    try:
        response = msgspec.json.decode(body, type=Embeddings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed(
            Category.PROVIDER_ERROR, f"the provider's response is not a list of embeddings: {error}"
        ) from None
    if len(response.data) != expected or {one.index for one in response.data} != set(range(expected)):
        found = len(response.data)
        raise CallFailed(Category.PROVIDER_ERROR, f"the provider returned {found} embeddings for {expected} inputs")
    return response


def _numbers(stated: list[float] | str) -> list[float]:
    if isinstance(stated, list):
        return stated
    try:
        data = b64decode(stated, validate=True)
        return [number for (number,) in struct.iter_unpack("<f", data)]
    except (NotBase64, ValueError, struct.error):
        raise CallFailed(
            Category.PROVIDER_ERROR, "an embedding of the provider's response is not base64 of float32"
        ) from None
