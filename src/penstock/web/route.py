"""The declaration of a route: what is needed to serve it and to describe it in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from penstock.errors import PenstockError
from penstock.web.request import Request
from penstock.web.response import AnyResponse
from penstock.web.websocket import WebSocket

Handler = Callable[[Request], Awaitable[AnyResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header."""

    name: str
    type: Any  # as msgspec understands it
    description: str
    place: str = "query"  # or "header"
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PathParameter:
    """A part of the path: ``{name}``. Handlers find it converted to its type, which is ``str`` or ``UUID``."""

    name: str
    description: str
    type: type[Any] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """One of a route's responses that are not errors."""

    description: str
    type: Any = None
    media_type: str = "application/json"
    also: tuple[str, ...] = ()  # other media types that the same status may have
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path. A route of GET serves HEAD too."""

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
    path_parameters: tuple[PathParameter, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    responses: dict[int, ResponseSpec]
    errors: tuple[type[PenstockError], ...] = ()
    open: bool = False  # needs no token
    max_body_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketRoute:
    """A path that is served as a WebSocket. OpenAPI has no words for it: the description lists it by its GET."""

    path: str
    handler: Callable[[WebSocket], Awaitable[None]]
    name: str
    summary: str
    tag: str
    description: str = ""
    path_parameters: tuple[PathParameter, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[type[PenstockError], ...] = ()
    open: bool = False
    max_message_bytes: int = 64 * 1024


AnyRoute = Route | WebSocketRoute
