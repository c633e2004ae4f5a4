"""Secrets in manifests: which of their values must not be shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock import masking

_SECRET: Final = re.compile(r"key|token|secret|password|passwd|credential|authorization", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether a value under this name is a secret."""
    return _SECRET.search(name) is not None


def secrets_in(*tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that must not appear in any answer, log or error: those under the name of a secret.

    A value that only names the variable which holds the secret (``env:NAME``, ``${NAME}``) is none.
    """
    found = {value for table in tables for value in _secrets(table)}
    return tuple(sorted(found, key=len, reverse=True))


def masked(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table as it may be shown."""
    return {name: _shown(name, value) for name, value in table.items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked(value)
    return masking.MASK if is_secret(name) and isinstance(value, str) else value


def _secrets(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and _is_secret_value(str(name), value):
            yield value


def _is_secret_value(name: str, value: str) -> bool:
    names_a_variable = name.endswith("_env") or value.startswith(("env:", "${"))
    return is_secret(name) and len(value) >= masking.SHORTEST and not names_a_variable
