"""The callback under the name that wrappers of the plug-in import; ``set_up`` is theirs to call, and does nothing."""

from __future__ import annotations

from aiges.replies import callback
from aiges.utils.log import getFileLogger

__all__ = ["callback", "log", "set_up"]

log = getFileLogger()


def set_up(_queue: object) -> None:
    """Do nothing: results need no queue here."""
