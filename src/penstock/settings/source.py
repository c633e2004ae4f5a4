"""Read variables from the environment of the process and from a file ``.env``; the environment takes precedence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DOTENV: Final = Path(".env")


def from_file(env_file: Path | None = DOTENV) -> dict[str, str]:
    """Return the variables of a file; none if it does not exist. Raises OSError and UnicodeDecodeError."""
    if env_file is None or not env_file.is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415  (only where there is such a file)

    return {name: value for name, value in dotenv_values(env_file).items() if value is not None}


def environment(env_file: Path | None = DOTENV) -> dict[str, str]:
    """Return all variables of this process; files may refer to them as ``${NAME}``."""
    return from_file(env_file) | dict(os.environ)
