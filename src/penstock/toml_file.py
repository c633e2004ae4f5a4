"""TOML files of the operator: read with a bound in bytes, and with every mistake collected."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock.errors import FieldProblem, SettingsError

_MAX_BYTES: Final = 4 * 2**20


@dataclass(slots=True)
class Problems:
    """Collects the mistakes of a file."""

    path: Path
    found: list[FieldProblem] = field(default_factory=list)

    def add(self, where: str, detail: str) -> None:
        self.found.append(FieldProblem(field=f"{self.path}: {where}", detail=detail))

    def raise_any(self) -> None:
        """Raise SettingsError with all mistakes, if there are any."""
        if self.found:
            raise SettingsError(self.found)


def read(path: Path, variable: str, *, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """Return a file's tables; ``variable`` is the setting that names it. Raises SettingsError for a file that cannot be
    read or is not TOML."""

    def refused(where: object, detail: str) -> SettingsError:
        return SettingsError([FieldProblem(field=str(where), detail=detail)])

    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise refused(path, f"has more than {_MAX_BYTES} bytes")
        return tomllib.loads(text.decode("utf-8"), parse_float=parse_float)
    except OSError as error:
        raise refused(variable, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise refused(path, "is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise refused(path, f"is not TOML: {error}") from None
    except RecursionError:
        raise refused(path, "is nested too deeply") from None
