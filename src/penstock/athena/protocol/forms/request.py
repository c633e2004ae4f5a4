"""A request as the forms of the RPC carry it: the message, and its place in a call or session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from penstock.athena.protocol.requests import RequestMessage
from penstock.errors import MalformedBody

M = TypeVar("M", bound=Message)


class NotRepresentable(ValueError):
    """A form has no place for a part of a message; the text names the part."""


@dataclass(slots=True, kw_only=True)
class RpcRequest:
    """One message of a client for a service."""

    service: str  # empty in the messages after the first of a session
    message: RequestMessage
    once: bool = True  # the whole input of a call; otherwise one of several messages of a session
    number: int = 0  # of the message within its session


def parsed(kind: type[M], data: bytes) -> M:
    """Return a protobuf message. Raises MalformedBody."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:  # texts that are not UTF-8 are among its reasons
        raise MalformedBody(f"the data is not a protobuf message {message.DESCRIPTOR.full_name}") from None
    return message
