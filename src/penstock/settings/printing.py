"""Print settings with masked secrets, and list the secrets that must be masked everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from penstock import durations
from penstock.masking import MASK, Secret, mask_url, secrets_of_url


def printable(name: str, value: object) -> str | int | bool | None:
    """Return a setting's value as text, with secrets and passwords in URLs masked."""
    match value:
        case Secret():
            return mask_url(value.reveal()) if name == "database_url" else MASK
        case timedelta():
            return durations.text(value)
        case tuple():
            return ",".join(mask_url(str(one)) for one in value)
        case bool() | int() | None:
            return value
        case _:
            return mask_url(str(value)) if "://" in str(value) else str(value)


def secrets_in(values: Iterable[object]) -> Iterator[str]:
    """Return the secrets, and the passwords inside URLs."""
    for value in values:
        if isinstance(value, tuple):
            yield from secrets_in(value)
            continue
        text = value.reveal() if isinstance(value, Secret) else value
        if not isinstance(text, str):
            continue
        if "://" in text:
            yield from secrets_of_url(text)
        elif isinstance(value, Secret):
            yield text
