"""Find the secrets in manifests, which must not be shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock import masking

_NAMES: Final = "key|token|secret|password|passwd|credential|authorization"
_HEADERS: Final = "headers"
_SECRET: Final = re.compile(_NAMES, re.IGNORECASE)
_IN_QUERY: Final = re.compile(rf"([?&][^=&#]*(?:{_NAMES})[^=&#]*=)([^&#]+)", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether a value under this name is a secret."""
    return _SECRET.search(name) is not None


def secrets_in_url(url: str) -> list[str]:
    """Return the values of a URL's query under the name of a secret, as they are written."""
    return [match[2] for match in _IN_QUERY.finditer(url)]


def secrets_in(*tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that must not appear in any response, log or error: those under the name of a secret.

    A value that only names the variable with the secret (``env:NAME``, ``${NAME}``) is not one.
    """
    found = {value for table in tables for value in _secrets(table)}
    return tuple(sorted(found, key=len, reverse=True))


def masked(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table as it may be shown."""
    return {name: _shown(name, value) for name, value in table.items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and name == _HEADERS:
        return {header: _shown_header(stated) for header, stated in value.items()}
    if isinstance(value, Mapping):
        return masked(value)
    if not isinstance(value, str):
        return value
    return masking.MASK if is_secret(name) else _IN_QUERY.sub(rf"\g<1>{masking.MASK}", value)


def _shown_header(stated: Any) -> Any:
    """Return a header's value as it may be shown: any may be a secret, whatever its name."""
    return stated if isinstance(stated, str) and stated.startswith("env:") else masking.MASK


def _secrets(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and _is_secret_value(str(name), value):
            yield value
        elif isinstance(value, str):
            yield from (one for one in secrets_in_url(value) if len(one) >= masking.SHORTEST)


def _is_secret_value(name: str, value: str) -> bool:
    names_a_variable = name.endswith("_env") or value.startswith(("env:", "${"))
    return is_secret(name) and len(value) >= masking.SHORTEST and not names_a_variable
