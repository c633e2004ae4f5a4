"""The loggers of wrappers. All lines go to the model's log, in a replica, or to the terminal; none into a file."""

from __future__ import annotations

import logging
from typing import Final

fmt: Final = "%(asctime)s - %(name)s:%(funcName)s:%(lineno)s - %(levelname)s:  %(message)s"
level: Final = logging.INFO

logging.basicConfig(format=fmt, level=level)  # changes nothing where handlers are set up already, as in a replica
log: logging.Logger = logging.getLogger()


def getLogger(fmt: str = fmt, level: int = level, name: str = "root") -> logging.Logger:
    """Return the logger of wrappers. The format is that of the place where the wrapper runs."""
    log.setLevel(level)
    return log


def getFileLogger(fmt: str = fmt, level: int = level, name: str = "wrapper") -> logging.Logger:
    """Return a logger of that name, whose lines go where all others go."""
    found = logging.getLogger(name)
    found.setLevel(level)
    return found
