"""The routes of one app at the root: ``/call`` in place of ``/api/v1/apps/NAME/call``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from penstock.errors import AppUnavailable, NotFound
from penstock.web.request import Request
from penstock.web.response import AnyResponse
from penstock.web.route import AnyRoute, Handler, Route

_PREFIX: Final = "/api/v1/apps/{app}/"

IsKnown = Callable[[str], Awaitable[bool]]  # returns whether a worker has published an app


def at_root(routes: Iterable[AnyRoute], app: str, is_known: IsKnown) -> list[Route]:
    """Return the routes of apps for one app, without the part of the path that names it.

    Until a worker has published the app, they raise AppUnavailable and not NotFound: this server is about the app.
    """
    return [_at_root(one, app, is_known) for one in routes if isinstance(one, Route) and one.path.startswith(_PREFIX)]


def _at_root(route: Route, app: str, is_known: IsKnown) -> Route:
    return replace(
        route,
        path=f"/{route.path.removeprefix(_PREFIX)}",
        name=f"{route.name}AtRoot",
        path_parameters=tuple(one for one in route.path_parameters if one.name != "app"),
        errors=tuple(dict.fromkeys((*route.errors, AppUnavailable))),
        handler=partial(_handle, route.handler, app, is_known),
    )


async def _handle(handler: Handler, app: str, is_known: IsKnown, request: Request) -> AnyResponse:
    request.path_values = {**request.path_values, "app": app}
    try:
        return await handler(request)
    except NotFound:
        if await is_known(app):
            raise
        raise AppUnavailable(f"the app {app} is starting: no worker has it yet") from None
