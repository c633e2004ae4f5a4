"""The list of a server's models: ``GET /models``."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

_MAX_MODELS: Final = 100


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


def model_names(body: bytes) -> list[str]:
    """Return the names of the first hundred models; none when the response is not such a list."""
    try:
        return [model.id for model in msgspec.json.decode(body, type=_Models).data[:_MAX_MODELS]]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
