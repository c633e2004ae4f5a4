"""Turn what a wrapper returns into data objects, or into the failure of its call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock.failures import CallFailed
from penstock.models.replica.aiges import codes, kinds
from penstock.models.replica.aiges.calls import Item

# What methods of wrappers raise and callers get to know. SystemExit would otherwise end the replica with all its calls.
RAISED: Final = (Exception, KeyboardInterrupt, SystemExit)
_SHOWN: Final = 100  # characters of a key in a message


def items_of(response: Any, method: str) -> list[Item]:
    """Return the data objects of a response; ``method`` returned it, or sent it by a callback.

    Raises CallFailed for something else than a response, for one without data, and for data that callers cannot be
    given.
    """
    data = getattr(response, "list", None)
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        what = "nothing" if response is None else f"a {type(response).__name__}, which is not a Response"
        raise codes.failed(codes.EXEC_RAISED, f"{method} returned {what}")
    items = [item for item in map(_item, data) if item is not None]
    if not items:
        raise codes.failed(codes.EXEC_RAISED, f"{method} returned a Response without data")
    return items


def error_number(response: Any) -> int:
    """Return the number of an error that a response states; 0 if it states none. Raises CallFailed."""
    return number_of(getattr(response, "error_code", 0), "error_code")


def number_of(value: Any, method: str) -> int:
    """Return what a method returned as a number; None counts as 0. Raises CallFailed."""
    if value is None:
        return 0
    if isinstance(value, int):
        return int(value)
    raise codes.failed(codes.EXEC_RAISED, f"{method} must be a number, not a {type(value).__name__}")


def raised(error: BaseException, method: str) -> CallFailed:
    """Return the failure of a call for an exception of a method."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return codes.failed(codes.EXEC_RAISED, f"{method}: {kind}: {text}" if text else f"{method}: {kind}")


def _item(stated: Any) -> Item | None:
    """Return one data object; None for one that the wrapper has not filled."""
    key, data = getattr(stated, "key", None), getattr(stated, "data", None)
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    if not isinstance(key, str) or data is None:
        raise _bad(stated, "has no key" if data is not None else "has no data")
    content = _bytes(data)
    if content is None:
        raise _bad(key, f"must hold bytes, not a {type(data).__name__}")
    if not key:
        if content:
            raise _bad(key, "has no key")
        return None
    kind, status = getattr(stated, "type", kinds.TEXT), getattr(stated, "status", kinds.ONCE)
    if not isinstance(kind, int) or not 0 <= kind < len(kinds.NAMES):
        raise _bad(key, f"has the type {kind!r}, which is none of DataText, DataAudio, DataImage and DataVideo")
    if not isinstance(status, int) or not kinds.BEGIN <= status <= kinds.ONCE:
        raise _bad(key, f"has the status {status!r}, which is none of DataBegin, DataContinue, DataEnd and Once")
    desc = getattr(stated, "desc", None) or {}
    return Item(key, content, int(kind), int(status), {str(name): str(value) for name, value in desc.items()})


def _bytes(data: Any) -> bytes | memoryview | None:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode("utf-8", "replace")
    try:
        return bytes(memoryview(data))  # a copy: the wrapper may use its array again
    except TypeError:
        return None


def _bad(key: object, detail: str) -> CallFailed:
    where = f"the result {key[:_SHOWN]!r}" if isinstance(key, str) and key else "a result"
    return codes.failed(codes.INVALID_OUTPUT, f"{where} {detail}")
