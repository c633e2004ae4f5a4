"""A key that is revoked while the body of its request arrives: the request ends, and has no effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from penstock.access.http.keys import sender_of
from penstock.access.key import KeyCreation
from penstock.errors import Unauthorized
from penstock.masking import Secret
from penstock.web.request import Request
from tests.support.gateways import SUBMISSION, HttpCaller, running_gateway
from tests.support.raw_http import Connection
from tests.support.waiting import until, within

ALL = ["tenant:admin", "jobs:read", "jobs:submit", "files"]


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


async def new_key(operator: HttpCaller) -> dict[str, Any]:
    """Return a key that the gateway knows."""
    key: dict[str, Any] = (await operator.post("/keys", {"name": "test", "scopes": ALL})).json
    assert (await operator.get("/identity", Authorization=f"Bearer {key['key']}")).status == 200
    return key


@asynccontextmanager
async def half_sent(operator: HttpCaller, path: str, body: bytes, key: dict[str, Any]) -> AsyncIterator[Connection]:
    """Send a POST whose handler waits for the second half of its body."""
    url = urlsplit(operator.address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = (
        f"POST /api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        connection = Connection(reader, writer)
        await connection.send(head.encode(), body[: len(body) // 2])
        await until(lambda: f"/api/v1{path}" in operator.in_progress, "the request is in progress", seconds=10)
        yield connection
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("path", "body", "things"),
    [
        ("/keys", {"name": "smuggled", "scopes": ["jobs:read"]}, "/keys"),
        ("/jobs", SUBMISSION | {"owner_ref": "smuggled"}, "/jobs"),
        ("/blobs", {"content": "smuggled"}, "/jobs"),
    ],
)
async def test_a_request_whose_body_is_late_ends_with_its_key(
    operator: HttpCaller, path: str, body: dict[str, Any], things: str
) -> None:
    key = await new_key(operator)
    async with half_sent(operator, path, msgspec.json.encode(body), key) as connection:
        await operator.post(f"/keys/{key['id']}/revoke")
        reply = await within(connection.reply(), 2)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert b"was revoked" in reply.body
    assert b"smuggled" not in (await operator.get(things)).body


async def test_a_body_that_needs_a_removed_scope_is_refused(operator: HttpCaller) -> None:
    key = await new_key(operator)
    body = msgspec.json.encode(SUBMISSION)
    async with half_sent(operator, "/jobs", body, key) as connection:
        await operator.call("PATCH", f"/keys/{key['id']}", {"scopes": ["jobs:read"]})
        assert (await within(connection.reply(), 2)).status == 401


async def test_keys_are_managed_with_the_rights_at_the_time_of_the_transaction(
    operator: HttpCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway may not have seen the revocation yet, but the transaction does."""
    key = await new_key(operator)
    sent: list[Request] = []
    check = operator.gateway.application._check

    def kept(request: Request) -> Any:
        sent.append(request)
        return check(request)

    monkeypatch.setattr(operator.gateway.application, "_check", kept)
    assert (await operator.get("/identity", Authorization=f"Bearer {key['key']}")).status == 200
    sender = sender_of(sent[0])
    await operator.post(f"/keys/{key['id']}/revoke")
    service = operator.parts.access.service
    with pytest.raises(Unauthorized, match="revoked"):
        await service.create_key(sender, KeyCreation(name="smuggled", scopes=["jobs:read"]))
    assert b"smuggled" not in (await operator.get("/keys")).body
