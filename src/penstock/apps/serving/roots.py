"""The routes of one app at the root: ``/call`` in place of ``/api/v1/apps/NAME/call``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from penstock.web.request import Request
from penstock.web.response import AnyResponse
from penstock.web.route import AnyRoute, Handler, Route

_PREFIX: Final = "/api/v1/apps/{app}/"


def at_root(routes: Iterable[AnyRoute], app: str) -> list[Route]:
    """Return the routes of apps for one app, without the part of the path that names it."""
    return [_at_root(one, app) for one in routes if isinstance(one, Route) and one.path.startswith(_PREFIX)]


def _at_root(route: Route, app: str) -> Route:
    return replace(
        route,
        path=f"/{route.path.removeprefix(_PREFIX)}",
        name=f"{route.name}AtRoot",
        path_parameters=tuple(one for one in route.path_parameters if one.name != "app"),
        handler=partial(_handle, route.handler, app),
    )


async def _handle(handler: Handler, app: str, request: Request) -> AnyResponse:
    request.path_values = {**request.path_values, "app": app}
    return await handler(request)
