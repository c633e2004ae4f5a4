"""The command of a manifest that starts a program.

Used in replicas and in hosts: imports stay within the standard library.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path


def words_of(command: object) -> list[str]:
    """Return the program and its arguments; raises ValueError."""
    words = command
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"cannot be split as a shell would: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words) or not words[0]:
        raise ValueError('is required: the program and its arguments, as ["java", "Words.java"] or "java Words.java"')
    if any("\0" in word for word in words):
        raise ValueError("must hold no NUL characters")
    return words


def found(program: str, folder: Path) -> str | None:
    """Return the path of a program in the folder or on the PATH; None where it is missing or not executable."""
    path = (folder / program).absolute()
    if path.is_file() and os.access(path, os.X_OK):
        return str(path)
    return None if "/" in program else shutil.which(program)


def mistakes(command: object, folder: Path) -> list[tuple[str, str]]:
    """Return what is wrong with the option ``command``."""
    try:
        program = words_of(command)[0]
    except ValueError as error:
        return [("command", str(error))]
    if found(program, folder) is None:
        return [("command", f"must begin with a program in the manifest's folder or on the PATH: {program}")]
    return []
