"""Secrets in manifests that are registered over HTTP: stored encrypted, never shown, and part of a rotation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from penstock.access.instance import Instance
from penstock.access.secret import InstanceSecret
from penstock.access.secret_file import SecretSource
from penstock.errors import WrongState
from penstock.masking import Secret
from penstock.models import sealing
from penstock.postgres.pool import Database
from tests.support.databases import open_database, query
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.http_servers import running
from tests.support.waiting import until, within

TOKEN = Secret("operators-token")
KEY = "sk-of-the-server-that-must-not-be-shown"


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A server that requires a header."""

    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"right": request.headers.get("X-Access") == KEY})

    async with running(respond) as address:
        yield address


def stated(*secrets: InstanceSecret) -> dict[str, Any]:
    return {"ai_service_token": TOKEN, "penstock_secret_key": Secret(",".join(secret.text() for secret in secrets))}


async def register(caller: HttpCaller, server: str, name: str = "guarded", **more: Any) -> None:
    body = {"name": name, "runtime": "http", "http": {"url": server, "headers": {"X-Access": KEY}}, **more}
    reply = await caller.post("/models", body)
    assert reply.status == 201, reply.body


async def works(caller: HttpCaller, name: str = "guarded") -> bool:
    reply = await caller.post(f"/models/{name}/predict", {})
    return reply.status == 200 and reply.json == {"right": True}


async def secret_ids(database: Database) -> set[str]:
    return {found for (found,) in await query(database, "SELECT secret_id FROM penstock.model")}


async def test_a_manifest_with_a_secret_is_stored_encrypted_and_not_shown(database_url: str, server: str) -> None:
    async with running_gateway(database_url, ai_service_token=TOKEN) as caller:
        await register(caller, server)
        plain = {"name": "plain", "runtime": "http", "http": {"url": server}}
        assert (await caller.post("/models", plain)).status == 201
        assert await works(caller)
        for path in ("/models", "/models/guarded", "/audit"):
            assert KEY not in (await caller.get(path)).body.decode()
    async with open_database(database_url) as database:
        rows = await query(database, "SELECT to_json(m)::text FROM penstock.model m")
        assert len(rows) == 2
        assert not [row for (row,) in rows if KEY in row or KEY.encode().hex() in row]
        sealed = dict(await query(database, "SELECT name, sealed IS NOT NULL FROM penstock.model"))
        assert sealed == {"guarded": True, "plain": False}


async def test_another_gateway_decrypts_it_and_one_without_the_secret_does_not_serve_it(
    database_url: str, server: str
) -> None:
    async with running_gateway(database_url, ai_service_token=TOKEN) as caller:
        await register(caller, server)
    async with running_gateway(database_url, ai_service_token=TOKEN) as caller:
        await until(lambda: works(caller), "the model is read from the database")
    async with open_database(database_url) as database:
        await query(database, "UPDATE penstock.model SET name = 'moved', changed = nextval('penstock.model_change')")
    async with running_gateway(database_url, ai_service_token=TOKEN) as caller:
        await register(caller, server, "another")
        await until(lambda: works(caller, "another"), "models are read")
        assert (await caller.get("/models/moved")).status == 404, "it was encrypted for another row"


async def test_removing_a_model_removes_its_secret(database_url: str, server: str) -> None:
    async with running_gateway(database_url, ai_service_token=TOKEN) as caller:
        await register(caller, server)
        assert (await caller.call("DELETE", "/models/guarded")).status == 204
    async with open_database(database_url) as database:
        assert await query(database, "SELECT sealed, secret_id FROM penstock.model") == [(None, None)]


async def test_a_rotation_encrypts_models_anew_while_gateways_serve_them(database_url: str, server: str) -> None:
    old, new = InstanceSecret.generate(), InstanceSecret.generate()
    async with (
        running_gateway(database_url, **stated(old)) as behind,
        running_gateway(database_url, **stated(new, old)) as caller,
        open_database(database_url) as database,
    ):
        await register(behind, server)
        assert await secret_ids(database) == {old.id}
        both = SecretSource(stated(new, old)["penstock_secret_key"], behind.parts.settings.penstock_data_dir)
        host = Instance(database, both, reseal=[sealing.reseal])
        await host.rotate()
        assert await secret_ids(database) == {new.id}
        await register(behind, server, "late")  # by a gateway that was not restarted yet
        assert await secret_ids(database) == {new.id, old.id}
        await host.finish()
        assert await secret_ids(database) == {new.id}
        await until(lambda: works(caller, "late"), "the other gateway serves both")
        assert await works(caller)
    async with running_gateway(database_url, **stated(new)) as caller:
        await until(lambda: works(caller), "the model is decrypted with the new secret")
        await until(lambda: works(caller, "late"), "the later one is, too")


async def test_a_rotation_does_not_end_while_a_model_cannot_be_decrypted(database_url: str, server: str) -> None:
    old, new = InstanceSecret.generate(), InstanceSecret.generate()
    async with running_gateway(database_url, **stated(old)) as caller:
        await register(caller, server)
    async with running_gateway(database_url, **stated(new, old)) as caller, open_database(database_url) as database:
        await until(lambda: works(caller), "the model is read")
        await query(database, "UPDATE penstock.model SET sealed = sealed || '\\x00'::bytea")
        both = SecretSource(stated(new, old)["penstock_secret_key"], caller.parts.settings.penstock_data_dir)
        host = Instance(database, both, reseal=[sealing.reseal])
        await host.rotate()
        with pytest.raises(WrongState, match=r"model:\*/guarded/1"):
            await within(host.finish())
        assert (await caller.call("DELETE", "/models/guarded")).status == 204
        await within(host.finish())
