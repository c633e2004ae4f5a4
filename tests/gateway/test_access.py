"""The access check: the bearer token, and the requests that even an open gateway refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock.masking import Secret
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway

_SIGNED = "/api/v1/blobs/signed/{token}"  # its token is what gives access
_GRANTS = "/oauth2/token"  # its parameters are what gives access
_SERVICES = "/v1/private/"  # Athena's clients have credentials and responses of their own
_OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/")


@pytest.fixture(scope="module")
async def guarded(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls to a gateway with a token, which they carry."""
    async with running_gateway(module_database_url, ai_service_token=Secret("s3cret+token/=")) as caller:
        yield caller


async def test_the_right_token_opens_everything(guarded: HttpCaller) -> None:
    assert (await guarded.get("/jobs")).status == 200
    assert (await guarded.post("/jobs", SUBMISSION)).status == 201
    assert (await guarded.get("/metrics")).status == 200
    assert (await guarded.get("/jobs", Authorization="bearer   s3cret+token/= ")).status == 200


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer s3cret", "Bearer s3cret+token/=x", "Basic s3cret+token/=", "s3cret+token/=", "é"],
)
async def test_any_other_token_is_401_on_every_route_that_is_not_open(guarded: HttpCaller, given: str) -> None:
    for route in guarded.gateway.routes:
        path = route.path.replace("{id}", "01a1fbba-bf9b-70c9-b890-daafa0bbb9de")
        for name, value in (("{version}", "v1"), ("{serviceId}", "none"), ("{task}", "1")):
            path = path.replace(name, value)
        reply = await guarded.call(route.method, path, headers={"Authorization": given})
        if route.path == _SIGNED:
            assert reply.outcome == (404, "not_found")
        elif route.path == _GRANTS:
            assert (reply.status, reply.json["error"]) == (400, "unsupported_grant_type")
        elif path == f"{_SERVICES}none" and route.method == "GET":
            assert reply.status == 426  # only a WebSocket has something to protect here
        elif path.startswith(_SERVICES) and not path.endswith("/try"):
            assert (reply.status, list(reply.json)) == (401, ["message"]), path
        elif route.open:
            assert reply.status < 400, path
        else:
            assert reply.outcome == (401, "unauthorized"), path
            assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_exactly_these_routes_are_open(guarded: HttpCaller) -> None:
    closed = [route.path for route in guarded.gateway.routes if not route.open]
    assert all(path.startswith(("/api/v1/", "/get", "/post")) or path == "/metrics" for path in closed)
    opened = {route.path for route in guarded.gateway.routes if route.open and route.path.startswith("/api/")}
    assert opened == {_SIGNED}
    for path in _OPEN:
        assert (await guarded.get(path, Authorization="")).status < 400


async def test_a_body_without_a_token_is_not_parsed(guarded: HttpCaller) -> None:
    reply = await guarded.call("POST", "/jobs", body=b"{" * 10_000, headers={"Authorization": "Bearer no"})
    assert reply.outcome == (401, "unauthorized")


async def test_an_open_gateway_refuses_pages_of_other_sites(caller: HttpCaller) -> None:
    reply = await caller.post("/jobs", SUBMISSION, Sec_Fetch_Site="cross-site")
    assert reply.outcome == (403, "forbidden")
    assert (await caller.post("/jobs", SUBMISSION, Sec_Fetch_Site="same-origin")).status == 201


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "10.0.0.1", "127.0.0.1.evil.example", ""])
async def test_an_open_gateway_refuses_host_names_of_other_machines(caller: HttpCaller, host: str) -> None:
    assert (await caller.post("/jobs", SUBMISSION, Host=host)).outcome == (403, "forbidden")
    assert (await caller.get("/healthz", Host=host)).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "[::1]", "127.9.9.9"])
async def test_an_open_gateway_accepts_every_name_of_this_machine(caller: HttpCaller, host: str) -> None:
    assert (await caller.get("/jobs", Host=host)).status == 200
