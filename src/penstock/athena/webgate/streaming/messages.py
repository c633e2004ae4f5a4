"""Read the command of a client's message, and the session of its connection that it concerns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from penstock.athena.protocol.requests import message_in
from penstock.errors import InvalidInput

_MAX_CID: Final = 64  # characters
_LATER: Final = frozenset({"1", "2"})  # statuses
_OLDER: Final = "common"  # the section of an older form of the protocol


class Command(StrEnum):
    """What a message requests beside passing data on."""

    NONE = ""
    CLOSE = "close"  # end the session
    RETRY = "retry"  # go on with a session whose connection was cut


@dataclass(slots=True, kw_only=True)
class ClientMessage:
    """One message of a client."""

    command: Command
    cid: str  # of the session within a multiplexed stream; empty where none is stated
    sid: str  # that the message states; empty where none is stated
    content: dict[str, Any]  # the message as JSON, without these


def read(message: bytes) -> ClientMessage:
    """Return a message; raises MalformedBody and InvalidInput."""
    content = message_in(message)
    _convert_older_form(content)
    header = content.get("header")
    stated = header if isinstance(header, dict) else {}
    cid, sid = _text(stated, "cid"), _text(stated, "sid")
    if len(cid) > _MAX_CID:
        raise InvalidInput.of("header.cid", f"must have at most {_MAX_CID} characters")
    try:
        command = Command(_text(stated, "cmd"))
    except ValueError:
        raise InvalidInput.of("header.cmd", 'must be "close" or "retry", where it is stated') from None
    return ClientMessage(command=command, cid=cid, sid=sid, content=content)


def begins(content: dict[str, Any]) -> bool:
    """Return whether a message states that it is the first one of several of its session."""
    return "0" in _statuses(content)


def continues(content: dict[str, Any]) -> bool:
    """Return whether a message states that it is not the first one of a session."""
    return bool(found := _statuses(content)) and found <= _LATER


def _statuses(content: dict[str, Any]) -> set[str]:
    """Return the status of the header as text, or else those of the data objects that state one."""
    header, payload = content.get("header"), content.get("payload")
    status = header.get("status") if isinstance(header, dict) else None
    if status is not None:
        return {str(status)}
    objects = [one for one in payload.values() if isinstance(one, dict)] if isinstance(payload, dict) else []
    return {str(one["status"]) for one in objects if one.get("status") is not None}


def _text(header: dict[str, Any], name: str) -> str:
    """Take a field out of a header; a number becomes text."""
    value = header.pop(name, None)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidInput.of(f"header.{name}", "must be a text")
    return str(value)


def _convert_older_form(content: dict[str, Any]) -> None:
    """Move a command into the header: in an older form of the protocol it stood in ``common``, beside ``data``."""
    if not isinstance(content.get(_OLDER), dict) or "header" in content:
        return
    content["header"] = content.pop(_OLDER)
    for name in ("business", "data"):
        if content.get(name) == {}:
            del content[name]
