"""Declarations of routes, which hold everything that serving and describing them (OpenAPI) needs.

Each topic has a class of handlers. The decorators ``route`` and ``websocket`` declare each handler's route, and
``routes_of`` returns the routes of an instance.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from penstock.errors import PenstockError
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import AnyResponse
from penstock.web.websocket import WebSocket

SMALL_BODY_BYTES: Final = 64 * 1024
Handler = Callable[[Request], Awaitable[AnyResponse]]
H = TypeVar("H", bound=Callable[[Any, Request], Awaitable[AnyResponse]])
W = TypeVar("W", bound=Callable[[Any, WebSocket], Awaitable[None]])
_BY_INSTANCE: Final = {"description", "max_body_bytes", "max_message_bytes"}
_DECLARED: Final = "__penstock_route__"


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
    subject: str = ""  # the kind of thing that it names, to which a ticket can be limited: "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """One of a route's responses that are not errors."""

    description: str
    type: Any = None
    media_type: str = "application/json"
    also: tuple[str, ...] = ()  # other media types that a response of this status may have
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path. A GET route also serves HEAD."""

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
    takes_media: bool = False  # the body may also be a form with media as files, or the bytes of one file
    path_parameters: tuple[PathParameter, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    responses: Mapping[int, ResponseSpec]
    errors: tuple[type[PenstockError], ...] = ()
    scope: str | None = None  # the scope that the sender's key must have
    open: bool = False  # no key is needed, and no scope
    max_body_bytes: int = SMALL_BODY_BYTES

    def __post_init__(self) -> None:
        _check_access(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketRoute:
    """A path that is served as a WebSocket; described as a GET, because OpenAPI cannot describe WebSockets."""

    method: ClassVar[str] = "GET"
    request: ClassVar[None] = None
    request_example: ClassVar[None] = None
    path: str
    handler: Callable[[WebSocket], Awaitable[None]]
    name: str
    summary: str
    description: str = ""
    tag: str
    path_parameters: tuple[PathParameter, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    responses: Mapping[int, ResponseSpec] = field(
        default_factory=lambda: {101: ResponseSpec(description="The connection becomes a WebSocket")}
    )
    errors: tuple[type[PenstockError], ...] = ()
    scope: str | None = None
    open: bool = False
    max_message_bytes: int = SMALL_BODY_BYTES

    def __post_init__(self) -> None:
        _check_access(self)


AnyRoute = Route | WebSocketRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Routes, one per method, for requests to paths that no route has, if ``serves`` accepts the request.

    Their common path is only a name, in metrics and errors: the handler finds the path in the request.
    """

    serves: Callable[[Request], bool]
    routes: Sequence[Route]


def _check_access(route: AnyRoute) -> None:
    """Raise TypeError unless the route declares who may use it, so that no route is open by mistake."""
    if route.open == (route.scope is not None):
        raise TypeError(f"{route.method} {route.path} must declare either its scope or open=True")
    if route.scope is not None and route.scope not in scopes.MEANINGS and route.scope != scopes.ANY:
        raise TypeError(f"{route.method} {route.path} declares an unknown scope: {route.scope}")


def route(
    method: str,
    path: str,
    *,
    name: str,
    tag: str,
    summary: str,
    description: str | Callable[[Any], str] = "",
    request: Any = None,
    request_example: Any = None,
    uploads: bool = False,
    takes_media: bool = False,
    path_parameters: tuple[PathParameter, ...] = (),
    parameters: tuple[Parameter, ...] = (),
    responses: Mapping[int, ResponseSpec],
    errors: tuple[type[PenstockError], ...] = (),
    scope: str | None = None,
    open: bool = False,  # noqa: A002 - the word of the declaration
    max_body_bytes: int | Callable[[Any], int] = SMALL_BODY_BYTES,
) -> Callable[[H], H]:
    """Declare a method as the handler of a route; see ``Route``.

    ``description`` and ``max_body_bytes`` may be functions of the instance, for values that depend on settings.
    """
    declared = dict(locals())

    def declare(handler: H) -> H:
        vars(handler).setdefault(_DECLARED, []).append((Route, declared))
        return handler

    return declare


def websocket(
    path: str,
    *,
    name: str,
    tag: str,
    summary: str,
    description: str = "",
    path_parameters: tuple[PathParameter, ...] = (),
    parameters: tuple[Parameter, ...] = (),
    errors: tuple[type[PenstockError], ...] = (),
    scope: str | None = None,
    open: bool = False,  # noqa: A002 - the word of the declaration
    max_message_bytes: int | Callable[[Any], int] = SMALL_BODY_BYTES,
) -> Callable[[W], W]:
    """Declare a method as the handler of a WebSocket; see ``WebSocketRoute``."""
    declared = dict(locals())

    def declare(handler: W) -> W:
        vars(handler).setdefault(_DECLARED, []).append((WebSocketRoute, declared))
        return handler

    return declare


def routes_of(handlers: object) -> list[Route | WebSocketRoute]:
    """Return the routes that the class of ``handlers`` declares, in order, bound to the instance."""
    found: list[Route | WebSocketRoute] = []
    for attribute, function in vars(type(handlers)).items():
        for kind, declared in getattr(function, _DECLARED, ()):
            values = {key: _decided(key, value, handlers) for key, value in declared.items()}
            found.append(kind(handler=getattr(handlers, attribute), **values))
    return found


def _decided(key: str, value: Any, handlers: object) -> Any:
    return value(handlers) if key in _BY_INSTANCE and callable(value) else value
