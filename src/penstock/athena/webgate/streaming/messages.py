"""Read a client's messages: their command, and which session of their connection they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import DataType
from penstock.athena.protocol.requests import Limits, RequestMessage, decode_request
from penstock.errors import InvalidInput
from penstock.web.reading import decode

_MAX_CID: Final = 64  # characters
_OLDER: Final = b'"common"'
_NO_TYPES: Final[Mapping[str, DataType]] = {}

_any: Final = msgspec.json.Decoder()


class Command(StrEnum):
    """What a message wants beside passing data on."""

    NONE = ""
    CLOSE = "close"  # end the session
    RETRY = "retry"  # go on with a session whose connection was cut


@dataclass(slots=True, kw_only=True)
class ClientMessage:
    """One message of a client."""

    command: Command
    cid: str  # of the session within a multiplexed stream; empty where none is stated
    sid: str  # that the message states; empty where none is stated
    request: RequestMessage


def read(message: bytes | str, limits: Limits, types: Mapping[str, DataType] = _NO_TYPES) -> ClientMessage:
    """Return a message, a text or the bytes of one; raises MalformedBody and InvalidInput.

    ``types`` are those of the data objects of its session by name, for a last piece that holds no data.
    """
    body = message.encode() if isinstance(message, str) else message
    if _OLDER in body:
        body = _without_older_form(body)
    request = decode_request(body, limits=limits, types=types)
    stated = request.text("cmd")
    try:
        command = Command(stated)
    except ValueError:
        raise InvalidInput.of("header.cmd", 'must be "close" or "retry", where it is stated') from None
    cid = request.text("cid")
    if len(cid) > _MAX_CID:
        raise InvalidInput.of("header.cid", f"must have at most {_MAX_CID} characters")
    sid = request.text("sid")
    for name in ("cmd", "cid", "sid"):
        request.header.pop(name, None)
    return ClientMessage(command=command, cid=cid, sid=sid, request=request)


def _without_older_form(body: bytes) -> bytes:
    """Return a message with its command in the header; in an older form of the protocol it stood in ``common``."""
    value: Any = decode(body, _any)
    if not isinstance(value, dict) or not isinstance(value.get("common"), dict) or "header" in value:
        return body
    value["header"] = value.pop("common")
    for name in ("business", "data"):
        if value.get(name) == {}:
            del value[name]
    return msgspec.json.encode(value)
