"""Where variables are read from: the environment of the process, and a file ``.env``; the environment wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DOTENV: Final = Path(".env")


def from_file(env_file: Path | None = DOTENV) -> dict[str, str]:
    """The variables of a file; none of one that is not there. Raises OSError and UnicodeDecodeError."""
    if env_file is None or not env_file.is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415  (only where there is such a file)

    return {name: value for name, value in dotenv_values(env_file).items() if value is not None}


def environment(env_file: Path | None = DOTENV) -> dict[str, str]:
    """All variables that this process sees; files may refer to them as ``${NAME}``."""
    return from_file(env_file) | dict(os.environ)
