"""A key or ticket cannot issue another one that outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from penstock.masking import Secret
from tests.support.gateways import HttpCaller, Reply, running_gateway

SOON = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
LATER = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
HELD = ["tenant:admin", "jobs:read"]


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


async def create(operator: HttpCaller, **fields: Any) -> dict[str, Any]:
    reply = await operator.post("/keys", {"name": "test", "scopes": HELD, **fields})
    assert reply.status == 201, reply.body
    key: dict[str, Any] = reply.json
    return key


async def test_a_key_that_expires_cannot_issue_one_that_outlives_it(operator: HttpCaller) -> None:
    brief, lasting = await create(operator, expires_at=SOON), await create(operator)

    async def call(method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        return await operator.call(method, path, body, headers={"Authorization": f"Bearer {brief['key']}"})

    new = {"name": "test", "scopes": ["jobs:read"]}
    for refused in (
        await call("POST", "/keys", new),
        await call("POST", "/keys", new | {"expires_at": LATER}),
        await call("PATCH", f"/keys/{brief['id']}", {"expires_at": None}),
        await call("PATCH", f"/keys/{brief['id']}", {"expires_at": LATER}),
        await call("POST", f"/keys/{lasting['id']}/rotate", {}),
    ):
        assert refused.outcome == (403, "scope_missing"), refused.body
        assert "expires" in refused.json["detail"]
    assert (await call("POST", "/keys", new | {"expires_at": SOON})).status == 201
    assert (await call("PATCH", f"/keys/{lasting['id']}", {"name": "renamed"})).status == 200
    assert (await call("POST", f"/keys/{brief['id']}/rotate", {})).status == 201


async def test_a_ticket_cannot_issue_keys(operator: HttpCaller) -> None:
    key = await create(operator)
    ticket = (await operator.post("/tickets", {"scopes": HELD})).json["ticket"]
    async with aiohttp.ClientSession() as session:
        for method, path, body in (
            ("POST", "/keys", {"name": "smuggled", "scopes": ["jobs:read"]}),
            ("POST", f"/keys/{key['id']}/rotate", {}),
            ("PATCH", f"/keys/{key['id']}", {"expires_at": None}),
        ):
            async with session.request(
                method, f"{operator.address}/api/v1{path}?ticket={ticket}", json=body
            ) as response:
                assert (response.status, (await response.json(content_type=None))["code"]) == (403, "scope_missing")
    assert b"smuggled" not in (await operator.get("/keys")).body
