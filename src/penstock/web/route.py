"""What a route is and promises: enough to serve it, and to write its part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from penstock.errors import PenstockError
from penstock.web.request import Request
from penstock.web.response import ByteStream, EventStream, Response

Handler = Callable[[Request], Awaitable[Response | ByteStream | EventStream]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header."""

    name: str
    type: Any  # as msgspec understands it
    description: str
    place: str = "query"  # or "header"
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """One of a route's answers that are no errors."""

    description: str
    type: Any = None
    media_type: str = "application/json"
    also: tuple[str, ...] = ()  # other media types that the same status may have
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path."""

    method: str
    path: str  # with {id}
    handler: Handler
    name: str  # the operation's id
    summary: str
    description: str = ""
    tag: str
    request: Any = None
    request_example: Any = None
    uploads: bool = False  # the body is a file of any type, or a form with one
    takes_media: bool = False  # beside JSON: a form with media as files, or the bytes of one
    parameters: tuple[Parameter, ...] = ()
    responses: dict[int, ResponseSpec]
    errors: tuple[type[PenstockError], ...] = ()
    open: bool = False  # needs no token
    max_body_bytes: int = 64 * 1024
