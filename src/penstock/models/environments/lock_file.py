"""Lock files: the packages of a model's environment, each with its version and hashes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

_MAX_BYTES: Final = 2**20
_SHOWN: Final = 80  # characters of a line in a mistake
_NAME: Final = r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\[[A-Za-z0-9._, -]*\])?"
_PINNED: Final = re.compile(
    rf"{_NAME}\s*(?:==\s*[A-Za-z0-9.!+_-]+|@\s*file:\S+)\s*(?:;[^#]*?)?(?P<hashes>(?:\s+--hash=\S+)*)"
)
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_CONTINUED: Final = re.compile(r"\\\s*$")


class Pin(Struct, frozen=True):
    """One package of a lock file."""

    name: str  # in normal form: lower case, with single hyphens
    text: str  # as pip reads it, on one line


def read(path: Path) -> bytes:
    """Return the content of a lock file. Raises ValueError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO would wait for a writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("must be a regular file")
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"must have at most {_MAX_BYTES} bytes")
    return content


def pins(content: bytes) -> list[Pin]:
    """Return the packages of a lock file. Raises ValueError, which names the first line that is wrong."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("must be text in UTF-8") from None
    found = [_pin(number, line) for number, line in _logical_lines(text)]
    if not found:
        raise ValueError("must name packages")
    return found


def missing(needed: Collection[Pin], pinned: Collection[Pin]) -> list[Pin]:
    """Return the packages of ``needed`` that are not among those ``pinned``, whatever their versions."""
    names = {pin.name for pin in pinned}
    return [pin for pin in needed if pin.name not in names]


def _pin(number: int, line: str) -> Pin:
    shown = line[:_SHOWN]
    if line.startswith("-"):
        raise ValueError(
            f"line {number}: {shown!r} is an option of pip. A lock file holds packages only; "
            "options are set in pip's configuration or its variables, such as PIP_INDEX_URL"
        )
    found = _PINNED.fullmatch(line)
    if found is None:
        raise ValueError(f"line {number}: {shown!r} must be a package with its version, NAME==VERSION")
    if not found["hashes"]:
        raise ValueError(
            f"line {number}: {shown!r} has no hash. Write the lock file with "
            "`uv pip compile --generate-hashes` or `pip-compile --generate-hashes`"
        )
    return Pin(re.sub(r"[-_.]+", "-", found["name"]).lower(), line)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines that were continued by backslashes as one, with the number of the first."""
    parts: list[str] = []
    began = 0
    for number, line in enumerate(text.splitlines(), start=1):
        began = began if parts else number
        part = _COMMENT.sub("", line)
        parts.append(_CONTINUED.sub("", part).strip())
        if _CONTINUED.search(part):
            continue
        joined = " ".join(part for part in parts if part)
        parts = []
        if joined:
            yield began, joined
    if joined := " ".join(part for part in parts if part):
        yield began, joined
