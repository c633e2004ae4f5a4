"""The logger that the oldest wrappers import: ``from iflags import flags``, then ``flags.logger``."""

from __future__ import annotations

from typing import Any

from aiges.utils.log import getFileLogger


class _Logger:
    """A logger whose methods also take the keyword arguments of ``print``, as those wrappers use it."""

    def __init__(self) -> None:
        self._logger = getFileLogger()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._logger, name)
        return lambda *values, **_named: method(*values)


class flags:
    """What the loader provides to wrappers."""

    logger = _Logger()
