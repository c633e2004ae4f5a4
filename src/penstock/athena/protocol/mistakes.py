"""Collect the mistakes in a message, each with the path of its field."""

from __future__ import annotations

from typing import Final

from penstock.errors import FieldProblem, InvalidInput, dotted

_MAX_PROBLEMS: Final = 20
_MAX_NAME: Final = 100  # characters of a name that an error repeats

Path = tuple[str | int, ...]


class DataUndecodable(InvalidInput):
    """Data that is not what the message states: base64, gzip or text in an encoding."""


class Mistakes:
    """The mistakes found in one message."""

    def __init__(self) -> None:
        self._found: list[FieldProblem] = []
        self._only_data = True

    def add(self, path: Path, detail: str, *, in_data: bool = False) -> None:
        """Record a mistake; ``in_data`` says that data could not be decoded."""
        self._only_data = self._only_data and in_data
        if len(self._found) < _MAX_PROBLEMS:
            self._found.append(FieldProblem(field=named(path), detail=detail))

    def check(self) -> None:
        """Raise InvalidInput with all mistakes, if there are any."""
        if self._found:
            raise (DataUndecodable if self._only_data else InvalidInput)(self._found)


def named(path: Path) -> str:
    """Return a path as errors show it, with long names cut off."""
    return dotted([part[:_MAX_NAME] if isinstance(part, str) else part for part in path]) or "body"
