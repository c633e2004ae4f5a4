"""Read error objects, ``{"error": {"message": …, "type": …, "param": …, "code": …}}``, and servers' variants."""

from __future__ import annotations

from typing import Any

import msgspec


def message_of(error: Any) -> str:
    """Return the message of an ``error`` member: an object's ``message``, a string unchanged, anything else as JSON."""
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    if isinstance(error, str):
        return error
    return msgspec.json.encode(error).decode()
