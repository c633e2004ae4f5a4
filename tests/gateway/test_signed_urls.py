"""Signed URLs of blobs: they work without a key, until they expire, and for that blob alone."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from uuid_utils.compat import uuid7

from penstock.access.secret import InstanceSecret, Secrets
from penstock.blobs.signing import Grant, sign, verify
from penstock.masking import Secret
from tests.support.clocks import Clock
from tests.support.databases import open_database
from tests.support.gateways import HttpCaller, Reply, running_gateway

CONTENT = b"0123456789" * 1000


@pytest.fixture(scope="module")
async def caller(module_database_url: str) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url, ai_service_token=Secret("token-of-the-operator")) as caller:
        yield caller


@pytest.fixture
async def clock(module_database_url: str) -> AsyncIterator[Clock]:
    async with open_database(module_database_url) as database:
        clock = Clock(database)
        yield clock
        await clock.reset()


async def uploaded(caller: HttpCaller) -> str:
    reply = await caller.call("POST", "/blobs?filename=a.txt", body=CONTENT, headers={"Content-Type": "text/plain"})
    assert reply.status == 201, reply.body
    blob_id: str = reply.json["id"]
    return blob_id


async def signed(caller: HttpCaller, blob_id: str, query: str = "") -> dict[str, Any]:
    reply = await caller.get(f"/blobs/{blob_id}/url{query}")
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = reply.json
    return found


async def without_key(caller: HttpCaller, path: str, **headers: str) -> Reply:
    async with aiohttp.ClientSession() as session, session.get(caller.address + path, headers=headers) as response:
        return Reply(status=response.status, headers=response.headers.copy(), body=await response.read())


async def test_a_signed_url_needs_no_key(caller: HttpCaller) -> None:
    blob_id = await uploaded(caller)
    assert (await without_key(caller, f"/api/v1/blobs/{blob_id}")).status == 401
    assert (await without_key(caller, f"/api/v1/blobs/{blob_id}/url")).status == 401
    url = (await signed(caller, blob_id))["url"]
    reply = await without_key(caller, url)
    assert (reply.status, reply.body) == (200, CONTENT)
    assert reply.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in reply.headers["Content-Security-Policy"]
    part = await without_key(caller, url, Range="bytes=10-19")
    assert (part.status, part.body) == (206, CONTENT[10:20])


async def test_a_signed_url_expires(caller: HttpCaller, clock: Clock) -> None:
    blob_id = await uploaded(caller)
    short, long = await signed(caller, blob_id, "?ttl=60"), await signed(caller, blob_id)
    assert timedelta(seconds=58) < _time(short) - datetime.now(UTC) <= timedelta(seconds=61)
    await clock.advance(timedelta(seconds=61))
    assert (await without_key(caller, short["url"])).outcome == (404, "not_found")
    assert (await without_key(caller, long["url"])).status == 200


async def test_a_signed_url_ends_with_its_blob(caller: HttpCaller) -> None:
    blob_id = await uploaded(caller)
    url = (await signed(caller, blob_id))["url"]
    assert (await caller.call("DELETE", f"/blobs/{blob_id}")).status == 204
    assert (await without_key(caller, url)).outcome == (404, "not_found")
    assert (await caller.get(f"/blobs/{blob_id}/url")).outcome == (404, "not_found")


async def test_a_signed_url_lasts_no_longer_than_its_blob(caller: HttpCaller, module_database_url: str) -> None:
    blob_id = await uploaded(caller)
    async with open_database(module_database_url) as database, database.acquire() as connection:
        await connection.execute("UPDATE blob SET expires_at = clock() + '50 s' WHERE id = $1", UUID(blob_id))
    assert _time(await signed(caller, blob_id)) - datetime.now(UTC) < timedelta(seconds=55)


async def test_a_changed_token_is_refused(caller: HttpCaller) -> None:
    url = (await signed(caller, await uploaded(caller)))["url"]
    head, _, token = url.rpartition("/")
    for index in range(0, len(token), 7):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        assert (await without_key(caller, f"{head}/{changed}")).outcome == (404, "not_found"), index
    for other in (token[:-1], token + "A", token[:-4] + "%3D%3D", "x", "ä" * 80, "=" * 80, "A" * 80):
        assert (await without_key(caller, f"{head}/{other}")).outcome == (404, "not_found"), other


@pytest.mark.parametrize("ttl", ["0", "-1", "604801", "1h", "", "1.5", "٣", "9" * 30])
async def test_a_wrong_ttl_is_refused(caller: HttpCaller, ttl: str) -> None:
    assert (await caller.get(f"/blobs/{uuid7()}/url?ttl={ttl}")).fields == ["ttl"]


def test_a_token_is_valid_under_its_secret_only() -> None:
    secret, other = InstanceSecret.generate(), InstanceSecret.generate()
    grant = Grant(tenant=7, blob_id=uuid7(), expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    token = sign(secret, grant)
    assert verify(Secrets(secret), token) == grant
    assert verify(Secrets(other), token) is None
    assert verify(Secrets(other, secret), token) == grant, "while the secret is rotated"
    assert hashlib.sha256(token.encode()).hexdigest() != hashlib.sha256(sign(other, grant).encode()).hexdigest()


def _time(found: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(found["expires_at"])
