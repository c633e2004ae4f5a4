"""Who may call the gRPC server: keys, signatures, scopes, quotas; and what ends with a key."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.athena.protocol import signing
from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput
from penstock.athena.protocol.messages.xsf_pb2 import ReqData
from penstock.masking import Secret
from penstock.postgres.pool import Database
from tests.athena.rpc import RELAY, SHOUT, RpcClient, data_of, model, part, rpc_client, text
from tests.support.databases import open_database
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.quotas import TOKEN, counted, new_tenant
from tests.support.waiting import until

METHOD = "/utils.XsfCall/call"


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_python(folder, "shout", SHOUT)
    put_python(folder, "relay", RELAY, extra="concurrency = 200")
    async with running_gateway(
        module_database_url,
        models_folder=folder,
        penstock_athena_grpc_port=0,
        penstock_athena_grpc_message_bytes=2**20,
        ai_service_token=Secret(TOKEN),
    ) as caller:
        yield caller


@pytest.fixture
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as database:
        yield database


async def new_key(gateway: HttpCaller, *scopes: str, **fields: Any) -> dict[str, Any]:
    reply = await gateway.call("POST", "/keys", {"name": "k", "scopes": list(scopes)} | fields)
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made


async def refusal(client: RpcClient, message: bytes = b"", **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.raw(message, **options)
    assert TOKEN not in str(raised.value)
    return raised.value.code()


async def test_a_key_is_needed_for_everything_but_the_health_check(gateway: HttpCaller) -> None:
    """Also for reflection, whose streams would otherwise take the places of calls."""
    async with rpc_client(gateway) as client:
        assert await refusal(client) is grpc.StatusCode.UNAUTHENTICATED
        assert await refusal(client, method="/utils.ToolBox/cmdserver") is grpc.StatusCode.UNAUTHENTICATED
        assert await refusal(client, metadata=[("authorization", "Bearer no")]) is grpc.StatusCode.UNAUTHENTICATED
        assert await refusal(client, metadata=[("authorization", "Bearer ps_a_b")]) is grpc.StatusCode.UNAUTHENTICATED
        assert await refusal(client, bytes(5 * 2**20)) is grpc.StatusCode.UNAUTHENTICATED  # the message is not read
        reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            async for _ in reflection.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            ):
                pass
        health = health_pb2_grpc.HealthStub(client.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1


async def test_a_key_may_call_what_its_scopes_and_models_allow(gateway: HttpCaller) -> None:
    caller = await new_key(gateway, "models:call", models=["shout"])
    async with rpc_client(gateway, caller["key"]) as client:
        assert (await client.once("shout", "k-1", text("text", "a"))).pl[0].data == b"A"
        given = part("relay", 1, text("p", "a", 0), greeting="hi")
        assert (await client.loader("AIIn", "k-2", given, SeqNo=1)).code == 10404
        for operation in ("AILoad", "AIUnLoad", "AILBType"):
            refused = await client.loader(operation, "x", serviceId="shout", authzNo=1)
            assert (refused.code, "scope" in refused.err) == (10313, True)
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await client.tool('{"cmd": "metrics"}')
        assert "ok" in await client.tool('{"cmd": "health"}')
    reader = await new_key(gateway, "jobs:read")
    async with rpc_client(gateway, reader["key"]) as client:
        assert await refusal(client) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_handle_belongs_to_its_key(gateway: HttpCaller) -> None:
    """Others neither see it nor collide with it."""
    one, other = [await new_key(gateway, "models:call") for _ in range(2)]
    async with rpc_client(gateway, one["key"]) as mine, rpc_client(gateway, other["key"]) as theirs:
        await mine.loader("AIIn", "h", part("relay", 1, text("p", "a", 0), greeting="mine"), SeqNo=1)
        assert (await theirs.loader("AIOut", "h")).code == 10008
        assert (await theirs.loader("AIExcp", "h")).code == 10008
        await theirs.loader("AIIn", "h", part("relay", 1, text("p", "b", 0), greeting="theirs"), SeqNo=1)
        await theirs.loader("AIIn", "h", part("relay", 2, text("p", "d", 2)), SeqNo=2)
        assert data_of(await theirs.results("h"))[-2:] == ["D", "end"]
        await mine.loader("AIIn", "h", part("relay", 2, text("p", "c", 2)), SeqNo=2)
        assert data_of(await mine.results("h"))[-2:] == ["C", "end"]


async def test_a_session_ends_when_its_key_is_revoked(gateway: HttpCaller) -> None:
    key = await new_key(gateway, "models:call")
    async with rpc_client(gateway, key["key"]) as client:
        await client.loader("AIIn", "r", part("relay", 1, text("p", "a", 0), greeting="hi"), SeqNo=1)
        await until(lambda: model(gateway, "relay").in_flight == 1, "the session runs")
        assert (await gateway.call("POST", f"/keys/{key['id']}/revoke")).status == 200
        await until(lambda: model(gateway, "relay").in_flight == 0, "the session has ended")
        assert await refusal(client, ReqData(op="AIOut").SerializeToString()) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_signed_call_is_accepted_and_its_app_id_compared(gateway: HttpCaller) -> None:
    """The lines are those of HTTP: host, date and the request line of the method."""
    reply = await gateway.call("POST", "/athena/keys", {"name": "app", "app_id": "app-1", "services": ["shout"]})
    made = reply.json
    date = format_datetime(datetime.now(UTC), usegmt=True)

    def signed(host: str = "rpc.example.com", **changes: str) -> list[tuple[str, str]]:
        secret = changes.get("secret", made["api_secret"])
        signature = signing.sign(secret, method="POST", host=host, path=METHOD, date=date)
        authorization = (
            f'api_key="{made["api_key"]}", algorithm="hmac-sha256", '
            f'headers="host date request-line", signature="{signature}"'
        )
        return [("authorization", authorization), ("host", "rpc.example.com"), ("date", date)]

    async with rpc_client(gateway) as client:

        async def called(app_id: str, metadata: list[tuple[str, str]]) -> LoaderOutput:
            client.metadata = metadata
            given = LoaderInput(serviceId="shout", state="ONCE", headers={"appid": app_id}, pl=[text("text", "a")])
            return await client.rest("signed", await client.loader("AIIn", "signed", given, SeqNo=1))

        assert (await called("app-1", signed())).pl[0].data == b"A"
        assert (await called("other", signed())).code == 10313
        client.metadata = signed(secret="wrong")
        assert await refusal(client) is grpc.StatusCode.UNAUTHENTICATED
        client.metadata = signed(host="elsewhere")
        assert await refusal(client) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_signed_digest_is_refused(gateway: HttpCaller) -> None:
    """It is of a body of HTTP; accepting it would promise that the message is the signed one."""
    reply = await gateway.call("POST", "/athena/keys", {"name": "digest", "app_id": "app-2", "services": ["shout"]})
    made = reply.json
    date = format_datetime(datetime.now(UTC), usegmt=True)
    digest = signing.digest_of(b"")
    lines = f"host: rpc.example.com\ndate: {date}\nPOST {METHOD} HTTP/1.1\ndigest: {digest}"
    signature = b64encode(hmac.digest(made["api_secret"].encode(), lines.encode(), "sha256")).decode()
    authorization = (
        f'api_key="{made["api_key"]}", algorithm="hmac-sha256", '
        f'headers="host date request-line digest", signature="{signature}"'
    )
    async with rpc_client(gateway) as client:
        client.metadata = [
            ("authorization", authorization),
            ("host", "rpc.example.com"),
            ("date", date),
            ("digest", digest),
        ]
        with pytest.raises(grpc.aio.AioRpcError, match="digest cannot be signed"):
            await client.raw(ReqData(op="AIHotword").SerializeToString())


async def test_quotas_hold_for_calls_and_for_sessions_until_they_end(gateway: HttpCaller) -> None:
    tenant = await new_tenant(gateway)
    await tenant.set_quota("calls_at_once", 1)
    async with rpc_client(gateway, tenant.key) as client:
        first = part("relay", 1, text("p", "a", 0), greeting="hi")
        assert (await client.loader("AIIn", "q-1", first, SeqNo=1)).code == 0
        response = await client.call("AIIn", "q-2", [first.SerializeToString()], SeqNo=1)
        assert (response.code, LoaderOutput.FromString(response.data[0].data).code) == (10110, 10110)
        assert (await client.loader("AIExcp", "q-1")).code == 0
        await until(lambda: model(gateway, "relay").in_flight == 0, "the session has ended")
        assert (await client.once("shout", "q-3", text("text", "a"))).code == 0


async def test_usage_is_recorded_for_the_key(gateway: HttpCaller, database: Database) -> None:
    """A session counts as one, with the bytes of all its messages."""
    tenant = await new_tenant(gateway)
    async with rpc_client(gateway, tenant.key) as client:
        await client.once("shout", "u-1", text("text", "a"))
        await client.loader("AIIn", "u-2", part("relay", 1, text("p", "a" * 500, 0), greeting="hi"), SeqNo=1)
        await client.loader("AIIn", "u-2", part("relay", 2, text("p", "b" * 500, 2)), SeqNo=2)
        await client.results("u-2")
    await until(lambda: model(gateway, "relay").in_flight == 0, "the session has ended")
    await until(lambda: gateway.parts.usage.unflushed == 0, "live calls were flushed")
    await counted(tenant, database)
    reply = await tenant.call("GET", "/usage?by=model")
    assert reply.status == 200, reply.body
    found = {group["model"]: group for group in reply.json["groups"]}
    assert (found["shout"]["calls"], found["shout"]["sessions"], found["shout"]["failures"]) == (1, 0, 0)
    assert (found["relay"]["calls"], found["relay"]["sessions"], found["relay"]["failures"]) == (1, 1, 0)
    assert found["relay"]["bytes_in"] > 1000
