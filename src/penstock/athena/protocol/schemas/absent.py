"""Members of messages that are null, which stands for a member that is absent."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Final

from penstock.athena.protocol.data import TYPES

_NONE: Final[AbstractSet[str]] = frozenset()


def drop_absent(message: dict[str, Any]) -> None:
    """Remove the members that are null from a message, down to the attributes of expected results.

    The null of a data object's data stays: it may be JSON.
    """
    _drop(message, 1, _NONE)
    parameter, payload = message.get("parameter"), message.get("payload")
    if type(parameter) is dict:
        _drop(parameter, 2, _NONE)
    if type(payload) is dict:
        _drop(payload, 1, TYPES.keys())


def _drop(value: dict[str, Any], levels: int, kept: AbstractSet[str]) -> None:
    """Remove members of a value and of ``levels`` below it, except those of the names that are ``kept``."""
    for name in [name for name, one in value.items() if one is None and name not in kept]:
        del value[name]
    if levels:
        for one in value.values():
            if type(one) is dict:
                _drop(one, levels - 1, kept)
