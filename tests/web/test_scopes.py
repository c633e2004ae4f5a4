"""Each route declares the scope that it needs, and the dispatcher checks it."""

from __future__ import annotations

import json

import pytest

from penstock.tenants import scopes
from penstock.tenants.principal import DEFAULT_NAME, DEFAULT_TENANT, Principal
from penstock.web.body import Body
from penstock.web.dispatch import Dispatcher
from penstock.web.request import Request
from penstock.web.response import Response
from penstock.web.route import ResponseSpec, Route


async def _respond(_request: Request) -> Response:
    return Response(status=204)


def _route(*, scope: str | None = None, open: bool = False) -> Route:  # noqa: A002
    responses = {204: ResponseSpec(description="done")}
    return Route(
        method="GET",
        path="/x",
        handler=_respond,
        name="x",
        tag="t",
        summary="s",
        responses=responses,
        scope=scope,
        open=open,
    )


def _holder(*held: str) -> Principal:
    return Principal(tenant=DEFAULT_TENANT, tenant_name=DEFAULT_NAME, scopes=frozenset(held))


async def _status(route: Route, principal: Principal) -> int:
    dispatch = Dispatcher([route], lambda _request: principal)
    response = await dispatch(Request(method="GET", url_path="/x", headers={}, body=Body(lambda: None)))
    assert isinstance(response, Response)
    if response.status == 403:
        problem = json.loads(response.body)
        assert problem["code"] == "scope_missing"
        assert str(route.scope) in problem["detail"], "the error names the scope that is missing"
    return response.status


@pytest.mark.parametrize("scope", sorted(scopes.ALL))
async def test_a_route_needs_its_scope(scope: str) -> None:
    assert await _status(_route(scope=scope), _holder(scope)) == 204
    assert await _status(_route(scope=scope), _holder(*scopes.ALL - {scope})) == 403
    assert await _status(_route(scope=scope), _holder()) == 403


async def test_every_key_may_use_a_route_of_any_scope() -> None:
    assert await _status(_route(scope=scopes.ANY), _holder()) == 204


@pytest.mark.parametrize(("scope", "open"), [(None, False), (scopes.FILES, True), ("jobs:raed", False)])
def test_a_route_without_a_correct_declaration_cannot_be_made(scope: str | None, open: bool) -> None:  # noqa: A002
    with pytest.raises(TypeError, match="GET /x"):
        _route(scope=scope, open=open)
