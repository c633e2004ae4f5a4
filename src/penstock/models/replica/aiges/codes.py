"""The numbers by which failures of engines are known, and the failures that carry them."""

from __future__ import annotations

from typing import Final

from penstock.failures import CallFailed, Category

INVALID_OUTPUT: Final = 10106  # an output has no key, an unknown kind, or no bytes
REPEATED_SESSION: Final = 10105  # the sid of the call is that of a running one

# An engine reported an error number of its own in:
INIT: Final = 10901
FINI: Final = 10902
LOAD: Final = 10903
UNLOAD: Final = 10904
CREATE: Final = 10905
DESTROY: Final = 10906
WRITE: Final = 10907
READ: Final = 10908
EXEC: Final = 10909
ASYNC: Final = 10910

# A wrapper in Python:
INIT_RAISED: Final = 30001  # cannot be imported or constructed, or wrapperInit raises
INIT_REFUSED: Final = 30002  # wrapperInit returns an error number
EXEC_RAISED: Final = 30003  # a method raises, or returns nothing that can be used


def failed(code: int, message: str, *, category: Category = Category.INTERNAL, field: str | None = None) -> CallFailed:
    """Return the failure of an engine's call."""
    return CallFailed(category, message, field=field, code=code)


def refused(code: int, number: int, message: str) -> CallFailed:
    """Return the failure of a call for which an engine reported an error number of its own.

    ``code`` names the method; ``message`` is the engine's text for ``number``, which may be empty.
    """
    return failed(code, f"{message or 'the engine reported an error'};code={number}")
