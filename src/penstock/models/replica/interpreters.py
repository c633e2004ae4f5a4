"""The options of runtimes whose models are Python: an interpreter of their own, or an environment from a lock file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_CLASS: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def stated(options: Mapping[str, Any], folder: Path) -> Path | None:
    """Return the Python that the options name; None if they name none."""
    path = options.get("interpreter")
    return _path(path, folder) if path else None


def lock_files(options: Mapping[str, Any], folder: Path) -> Sequence[Path]:
    """Return the lock files that the options name, the best first."""
    names = options.get("environment", [])
    return [folder / name for name in ([names] if isinstance(names, str) else names)]


def class_mistakes(options: Mapping[str, Any], *, required: bool = True) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the option ``class``."""
    named = options.get("class")
    if not isinstance(named, str) or not _CLASS.fullmatch(named):
        if required:
            yield "class", 'is required, as "module:Class"'
        elif named is not None:
            yield "class", 'must be stated as "module:Class"'


def mistakes(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with these options as pairs of the option and the detail."""
    yield from _interpreter_mistakes(options, folder)
    yield from _environment_mistakes(options)


def _path(stated: str, folder: Path) -> Path:
    """Return the path of a Python, which may be stated as a virtual environment's folder.

    Symbolic links are not resolved: in a virtual environment, Python is a link, and finds the environment by its path.
    """
    path = folder / Path(stated).expanduser()
    return (path / "bin" / "python" if path.is_dir() else path).absolute()


def _interpreter_mistakes(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    stated = options.get("interpreter")
    if stated is None:
        return
    if not isinstance(stated, str) or not stated:
        yield "interpreter", "must be the path of a Python, or of a virtual environment's folder"
    elif not _path(stated, folder).is_file():
        yield "interpreter", f"must exist, and be a Python or a folder with bin/python: {stated}"


def _environment_mistakes(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stated = options.get("environment")
    if stated is None:
        return
    names = [stated] if isinstance(stated, str) else stated
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        yield "environment", "must be the name of a lock file, or a list of such names"
    elif "interpreter" in options:
        yield "environment", "cannot be combined with interpreter: a model runs in one of them"
