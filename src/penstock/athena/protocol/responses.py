"""Response messages, encoded in both forms that clients know.

The **document's** form has ``message`` in every header, base64 for every type, JSON inline where the format is
``json``, and numbers as numbers. The **loader's** form, of version 3 of the original loader, has text as it is, other
types in base64, attributes as strings, and ``"payload": null`` beside an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import DataObject, DataType, Scalar, Status
from penstock.athena.protocol.objects import packed, written
from penstock.models.replica.aiges.calls import text_of

SUCCESS: Final = "success"

_any: Final = msgspec.json.Decoder()


class Bodies(StrEnum):
    """The form of response messages."""

    DOCUMENT = "document"
    LOADER = "loader"


@dataclass(slots=True, kw_only=True)
class ResponseMessage:
    """One message to a client: an outcome, perhaps with results."""

    code: int = 0  # 0: success
    message: str = SUCCESS
    sid: str = ""
    status: Status | None = None
    cid: str = ""  # of a session in a multiplexed stream
    header: dict[str, Scalar] = field(default_factory=dict)  # fields of the request that its schema repeats
    payload: Sequence[DataObject] = ()


def encode_response(response: ResponseMessage, bodies: Bodies = Bodies.DOCUMENT) -> bytes:
    """Return a response as JSON."""
    loader = bodies is Bodies.LOADER
    message: dict[str, Any] = {"header": _header(response, loader=loader)}
    if response.payload:
        message["payload"] = {one.name: _as_loader(one) if loader else written(one) for one in response.payload}
    elif loader and response.code:
        message["payload"] = None
    return msgspec.json.encode(message)


def _header(response: ResponseMessage, *, loader: bool) -> dict[str, Any]:
    header: dict[str, Any] = dict(response.header)
    header["code"] = response.code
    if response.code or not loader:
        header["message"] = response.message
    header["sid"] = response.sid
    if response.status is not None:
        header["status"] = int(response.status)
    if response.cid:
        header["cid"] = response.cid
    return header


def _as_loader(one: DataObject) -> dict[str, Any]:
    found: dict[str, Any] = {name: text_of(value) for name, value in one.attributes.items()}
    found["status"] = str(int(one.status))
    if one.seq is not None:
        found["seq"] = str(one.seq)
    found[one.type.value] = _text_or_base64(one)
    return found


def _text_or_base64(one: DataObject) -> str | bytes:
    """Return text as it is; other data, and text that is not UTF-8, as bytes, which are encoded as base64."""
    if one.type is DataType.TEXT:
        try:
            return one.data.decode()
        except UnicodeDecodeError:
            pass
    return packed(one)
