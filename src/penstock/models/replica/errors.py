"""Describe exceptions as text. They come from foreign code, so even their methods may fail."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

from penstock.failures import CallFailed, Category
from penstock.models.replica import frames

_MAX_MESSAGE = 4000  # characters
_CODES = 2**63  # codes of engines are below this
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,16}")  # the address of an object, which callers must not see


def failure(call_id: int, error: BaseException, *, kind: int = frames.FAILURE) -> bytes:
    """Encode the frame that ends a call, or a start, with an error."""
    if isinstance(error, CallFailed):
        field = None if error.field is None else text_of(error.field)
        seconds = None if error.retry_after is None else error.retry_after.total_seconds()
        code = error.code if error.code is not None and abs(error.code) < _CODES else None
        header = frames.FailureHeader(error.category, shortened(text_of(error.args[0])), field, seconds, code)
    else:
        header = frames.FailureHeader(Category.INTERNAL, described(error))
    return frames.encode(kind, call_id, header)


def no_sessions() -> CallFailed:
    """Return the failure of a session of a model that takes none."""
    return CallFailed(Category.BAD_INPUT, "this model takes no sessions")


def described(error: BaseException) -> str:
    """Return the class and the text of an exception in one line."""
    text = " ".join(text_of(error).split())
    return shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def text_of(value: object) -> str:
    """Return ``str(value)`` without addresses of objects, and as text that UTF-8 can hold; never raises."""
    try:
        text = str(value)
    except BaseException as problem:  # noqa: BLE001 - foreign code
        return f"its text cannot be read: __str__ raised {type(problem).__name__}"
    return _ADDRESS.sub("", plain(text))


def plain(text: str) -> str:
    """Return ``text`` with a question mark for each half of a surrogate pair, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def shortened(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


def traceback_of(error: BaseException) -> Sequence[str]:
    """Return the lines of an exception's traceback."""
    try:
        return "".join(traceback.format_exception(error)).splitlines()
    except BaseException:  # noqa: BLE001 - foreign code
        return [f"{described(error)} (its traceback cannot be read)"]
