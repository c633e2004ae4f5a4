"""Credentials over HTTP: made beside a key, shown once, stored encrypted, ended with their key; and access tokens."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.access.instance import Instance
from penstock.access.secret_file import SecretSource
from penstock.athena.credentials import sealing, store
from penstock.athena.credentials.cache import CredentialCache
from penstock.errors import DatabaseUnavailable, WrongState
from penstock.masking import Secret
from penstock.postgres.pool import Database
from tests.support.databases import execute, open_database, query
from tests.support.gateways import INSTANCE_SECRET, HttpCaller, Reply, running_gateway

KEYS = "/api/v1/athena/keys"


@pytest.fixture(scope="module")
async def operator(module_database_url: str) -> AsyncIterator[HttpCaller]:
    """Calls with AI_SERVICE_TOKEN."""
    async with running_gateway(module_database_url, ai_service_token=Secret("operators-token")) as caller:
        yield caller


@pytest.fixture(scope="module")
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as database:
        yield database


async def created(operator: HttpCaller, **fields: Any) -> dict[str, Any]:
    reply = await operator.call("POST", KEYS, {"name": "test", "app_id": "app-1"} | fields)
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made


async def token(operator: HttpCaller, made: dict[str, Any], **changes: str) -> Reply:
    stated = {"grant_type": "client_credentials", "client_id": made["api_key"], "client_secret": made["api_secret"]}
    query = "&".join(f"{name}={value}" for name, value in (stated | changes).items())
    return await operator.call("POST", f"/oauth2/token?{query}", headers={"Authorization": ""})


async def test_a_secret_is_shown_once_and_stored_encrypted(operator: HttpCaller, database: Database) -> None:
    made = await created(operator, services=["ocr"])
    assert made["key"].startswith(f"ps_{made['id']}_")
    for path in (KEYS, f"{KEYS}/{made['id']}", "/api/v1/audit", f"/api/v1/keys/{made['id']}"):
        reply = await operator.call("GET", path)
        assert reply.status == 200, reply.body
        assert made["api_secret"] not in reply.body.decode()
    for table in ("athena_credential", "api_key", "audit"):
        rows = await query(database, f"SELECT to_json(t)::text FROM penstock.{table} t")
        assert rows
        assert not [row for (row,) in rows if made["api_secret"] in row or made["key"] in row]
    (action,) = (await operator.call("GET", f"/api/v1/audit?subject={made['id']}")).json["actions"]
    assert action["action"] == "key.create"
    assert action["after"]["app_id"] == "app-1"


async def test_the_key_beside_credentials_may_call_the_services_and_nothing_else(operator: HttpCaller) -> None:
    made = await created(operator, services=["ocr"])
    key = (await operator.call("GET", f"/api/v1/keys/{made['id']}")).json
    assert key["scopes"] == ["models:call"]
    assert (key["models"], key["queues"], key["apps"]) == (["ocr"], [], [])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"app_id": ""}, "app_id"),
        ({"app_id": "a b"}, "app_id"),
        ({"app_id": "x" * 65}, "app_id"),
        ({"app_id": 7}, "app_id"),
        ({"services": "ocr"}, "services"),
        ({"scopes": ["operator"]}, "scopes"),
        ({"name": ""}, "name"),
    ],
)
async def test_a_wrong_field_is_named(operator: HttpCaller, fields: dict[str, Any], field: str) -> None:
    reply = await operator.call("POST", KEYS, {"name": "test", "app_id": "app-1"} | fields)
    assert reply.status == 422
    assert reply.fields == [field]


async def test_credentials_belong_to_their_tenant(operator: HttpCaller) -> None:
    made = await created(operator)
    assert (await operator.call("POST", "/api/v1/tenants", {"name": "other"})).status == 201
    other = {"Penstock-Tenant": "other"}
    assert (await operator.call("GET", KEYS, headers=other)).json == {"keys": []}
    for method, path in (("GET", f"{KEYS}/{made['id']}"), ("POST", f"{KEYS}/{made['id']}/revoke")):
        assert (await operator.call(method, path, headers=other)).outcome == (404, "not_found")


async def test_a_plain_key_has_no_credentials(operator: HttpCaller) -> None:
    key = (await operator.call("POST", "/api/v1/keys", {"name": "plain", "scopes": ["models:call"]})).json
    assert (await operator.call("GET", f"{KEYS}/{key['id']}")).outcome == (404, "not_found")
    assert (await operator.call("POST", f"{KEYS}/{key['id']}/revoke")).outcome == (404, "not_found")


async def test_a_token_is_issued_for_the_secret_by_query_form_json_and_basic(operator: HttpCaller) -> None:
    made = await created(operator)
    reply = await token(operator, made)
    assert reply.status == 200, reply.body
    assert reply.json.keys() == {"token_type", "access_token", "expires_in"}
    assert reply.json["expires_in"] == 1800
    stated = {"grant_type": "client_credentials", "client_id": made["api_key"], "client_secret": made["api_secret"]}
    url = f"{operator.address}/oauth2/token"
    async with operator.session.post(url, data=stated, headers={"Authorization": ""}) as response:
        assert response.status == 200
    async with operator.session.post(url, json=stated, headers={"Authorization": ""}) as response:
        assert response.status == 200
    basic = base64.b64encode(f"{made['api_key']}:{made['api_secret']}".encode()).decode()
    async with operator.session.post(
        url, data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {basic}"}
    ) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "f" * 32}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "f" * 32}, 401, "invalid_client"),
        ({"client_id": "%00"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
async def test_no_token_is_issued_for_anything_else(
    operator: HttpCaller, changes: dict[str, str], status: int, error: str
) -> None:
    reply = await token(operator, await created(operator), **changes)
    assert (reply.status, reply.json["error"]) == (status, error)


async def test_no_token_is_issued_once_the_key_is_revoked(operator: HttpCaller) -> None:
    made = await created(operator)
    assert (await token(operator, made)).status == 200
    revoked = await operator.call("POST", f"{KEYS}/{made['id']}/revoke")
    assert revoked.status == 200
    assert revoked.json["revoked_at"]
    operator.parts.access.watch.wake()
    await operator.parts.access.watch.once()
    assert (await token(operator, made)).status == 401


async def test_a_token_is_valid_for_its_time_and_cannot_be_changed(
    operator: HttpCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = operator.parts.athena.tokens
    text = (await token(operator, await created(operator))).json["access_token"]
    claims = access.verified(text)
    assert claims is not None
    assert claims.app_id == "app-1"
    head, body, signature = text.split(".")
    for wrong in (
        text[:-2],
        f"{head}.{body}",
        f"{head}.{body[:-4]}.{signature}",
        f"{head}..{signature}",
        "",
        "at..",
        "é",
    ):
        assert access.verified(wrong) is None
    monkeypatch.setattr("penstock.athena.tokens.time.time", lambda: float(claims.expires))
    assert access.verified(text) is None


async def test_the_secret_of_the_installation_rotates_under_credentials(
    operator: HttpCaller, database: Database, tmp_path: Path
) -> None:
    made = await created(operator)
    text = INSTANCE_SECRET.reveal()
    newer = SecretSource(Secret("B" * 43 + "," + text), tmp_path)
    host = Instance(database, newer, reseal=[sealing.reseal])
    await host.rotate()
    async with database.acquire() as connection:
        stored = (await store.by_api_key(connection, [made["api_key"]]))[made["api_key"]]
    assert stored.secret_id == newer.get().current.id
    assert sealing.Sealing(host).plain(stored) == made["api_secret"].encode()
    await execute(
        database, "UPDATE athena_credential SET sealed = '\\x00', secret_id = $2 WHERE key_id = $1",
        made["id"], newer.get().all()[0].id,
    )  # fmt: skip
    with pytest.raises(WrongState, match=f"athena:{made['id']}"):
        await host.finish()
    await execute(database, "DELETE FROM athena_credential")


async def test_a_secret_that_cannot_be_decrypted_is_not_read_again_for_each_request(
    operator: HttpCaller, database: Database, tmp_path: Path
) -> None:
    made = await created(operator)
    statements: list[str] = []
    async with open_database(database.url, max_size=1) as own:
        async with own.acquire() as connection:
            connection.add_query_logger(lambda query: statements.append(query.query))
        cache = CredentialCache(own, sealing.Sealing(Instance(own, SecretSource(Secret("B" * 43), tmp_path))))
        for _ in range(5):
            with pytest.raises(DatabaseUnavailable, match="does not have the secret"):
                await cache.find(made["api_key"])
    assert len(statements) == 1
