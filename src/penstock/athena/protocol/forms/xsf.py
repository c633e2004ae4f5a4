"""The call that carries the other forms: ``utils.ReqData`` and ``utils.ResData``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from penstock.athena.protocol.forms.request import parsed
from penstock.athena.protocol.messages.xsf_pb2 import DataMeta, ReqData, ResData, Session
from penstock.errors import InvalidInput

MAX_HANDLE: Final = 128  # characters
_MAX_FIELDS: Final = 64
_MAX_DATA: Final = 66  # a route, and as many data objects as a message may have


@dataclass(slots=True, kw_only=True)
class Piece:
    """Data of a call, with its description."""

    data: bytes
    description: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class XsfRequest:
    """An operation that a client calls."""

    operation: str
    handle: str = ""  # of the call or session
    trace: str = ""
    session: dict[str, str] = field(default_factory=dict)  # attributes of the session
    parameters: dict[str, str] = field(default_factory=dict)
    data: list[Piece] = field(default_factory=list)

    def number(self, name: str, default: int, *, most: int) -> int:
        """Return a parameter that is a whole number from 0 to ``most``. Raises InvalidInput."""
        text = self.parameters.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
            raise InvalidInput.of(name, f"must be a whole number from 0 to {most}")
        return int(text)


@dataclass(slots=True, kw_only=True)
class XsfResponse:
    """The response to an operation."""

    code: int = 0
    error: str = ""
    handle: str = ""
    trace: str = ""
    session: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    data: list[Piece] = field(default_factory=list)


def decode_request(data: bytes) -> XsfRequest:
    """Return a client's call. Raises MalformedBody and InvalidInput."""
    given = parsed(ReqData, data)
    if len(given.s.h) > MAX_HANDLE:
        raise InvalidInput.of("s.h", f"must have at most {MAX_HANDLE} characters")
    if len(given.param) > _MAX_FIELDS or len(given.s.sess) > _MAX_FIELDS:
        raise InvalidInput.of("param", f"has more than {_MAX_FIELDS} fields")
    if len(given.data) > _MAX_DATA:
        raise InvalidInput.of("data", f"has more than {_MAX_DATA} pieces")
    return XsfRequest(
        operation=given.op,
        handle=given.s.h,
        trace=given.s.t,
        session=dict(given.s.sess),
        parameters=dict(given.param),
        data=[Piece(data=one.data, description=dict(one.desc)) for one in given.data],
    )


def encode_response(response: XsfResponse) -> bytes:
    """Return a response as a client gets it."""
    return ResData(
        code=response.code,
        error_info=response.error,
        s=Session(t=response.trace, h=response.handle, sess=response.session),
        param=response.parameters,
        data=[DataMeta(data=one.data, desc=one.description) for one in response.data],
    ).SerializeToString()
