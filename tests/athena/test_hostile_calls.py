"""Hostile bodies over HTTP: each gets an envelope with a code, never an internal error, and nothing leaks."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.masking import Secret
from tests.athena.test_webgate import GREET, OCR, envelope, new_credential, post, signed
from tests.support.athena_messages import is_session_id
from tests.support.engines import put_engine, put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

PLAIN = {"Content-Type": "application/json"}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just("QUJD"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
headers = st.dictionaries(
    st.sampled_from(["app_id", "appid", "uid", "status", "sid", "services", "downMethod", "task_id", "callback_url"]),
    values,
    max_size=5,
)
objects = st.dictionaries(
    st.sampled_from(["image", "text", "audio", "status", "seq", "encoding", "compress", "format", "dataSrc", "url"]),
    values | st.sampled_from(["gzip", "raw", "json", "http", "gbk"]),
    max_size=5,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "header": headers | values,
        "parameter": st.dictionaries(st.sampled_from(["ocr", "greet", "x"]), objects | values, max_size=3) | values,
        "payload": st.dictionaries(st.sampled_from(["img", "text", "ocr_img", "x"]), objects | values, max_size=3)
        | values,
    },
)


@pytest.fixture(scope="module")
async def operator(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_engine(folder, extra="retry = false")
    put_python(folder, "greet", GREET)
    async with running_gateway(
        module_database_url,
        models_folder=folder,
        ai_service_token=Secret("operators-token"),
        penstock_max_call_bytes=2**20,
        penstock_fetch_networks=("127.0.0.0/8",),
    ) as caller:
        yield caller


@given(message=messages, service=st.sampled_from(["ocr", "greet"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_message_gets_an_envelope(operator: HttpCaller, message: dict[str, Any], service: str) -> None:
    body = msgspec.json.encode(message)
    reply = await operator.call("POST", f"/v1/private/{service}", body=body, headers=PLAIN)
    header = reply.json["header"]
    assert is_session_id(header["sid"])
    assert (reply.status == 200) == (header["code"] == 0), reply.body
    assert reply.status in {200, 400, 404, 413, 502}, reply.body


@given(body=st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_bytes_get_an_envelope(operator: HttpCaller, body: bytes) -> None:
    reply = await operator.call("POST", OCR, body=body, headers=PLAIN)
    assert reply.status == 400
    assert reply.json["header"]["code"] in {10160, 10163}


@given(name=st.sampled_from(["authorization", "date", "host", "access_token", "serviceId"]), value=st.text(max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_any_parameter_is_refused(operator: HttpCaller, name: str, value: str) -> None:
    async with operator.session.post(
        operator.address + OCR, params={name: value}, json={}, headers={"Authorization": ""}
    ) as response:
        assert response.status in {400, 401, 403}
        assert response.content_type == "application/json"


@pytest.mark.parametrize("levels", [1, 2])
async def test_a_gzip_bomb_is_refused(operator: HttpCaller, levels: int) -> None:
    data = bytes(2**25)
    for _ in range(levels):
        data = gzip.compress(data)
    image = {"image": base64.b64encode(data).decode(), "compress": "gzip", "encoding": "png"}
    reply = await operator.call("POST", OCR, envelope(payload={"img": image}))
    if levels == 1:
        assert (reply.status, reply.json["header"]["code"]) == (400, 10161), reply.body
        assert "1048576 bytes" in reply.json["header"]["message"]
    else:  # it is unpacked once only
        assert reply.status == 200


async def test_a_large_body_is_refused_in_an_envelope(operator: HttpCaller) -> None:
    image = {"image": base64.b64encode(bytes(2**20)).decode()}
    reply = await operator.call("POST", OCR, envelope(payload={"img": image}))
    assert (reply.status, reply.json["header"]["code"]) == (413, 10163)


@pytest.mark.parametrize("levels", [300, 490])
async def test_deep_values_are_refused(operator: HttpCaller, levels: int) -> None:
    deep: Any = "QUJD"
    for _ in range(levels):
        deep = [deep]
    for message in (
        envelope(payload={"img": {"image": deep}}),
        envelope(parameter={"ocr": {"lang": deep}}),
        envelope(header={"app_id": deep}),
        envelope(header={"app_id": "app-1", "downMethod": "async"}, payload={"img": {"image": deep}}),
    ):
        reply = await operator.call("POST", OCR, message)
        assert (reply.status, reply.json["header"]["code"]) == (400, 10163), reply.body


async def test_models_of_other_tenants_are_not_found(operator: HttpCaller) -> None:
    for name in ("acme", "umbrella"):
        assert (await operator.call("POST", "/api/v1/tenants", {"name": name})).status == 201
    model = {"name": "secret-model", "runtime": "http", "http": {"url": "http://127.0.0.1:9"}}
    mine = {"Penstock-Tenant": "acme"}
    registered = await operator.call("POST", "/api/v1/models", model, headers=mine)
    assert registered.status == 201, registered.body
    creation = {"name": "test", "app_id": "app-1"}
    own = (await operator.call("POST", "/api/v1/athena/keys", creation, headers=mine)).json
    seen = await post(operator, signed(own, "/v1/private/secret-model"), {"header": {"app_id": "app-1"}})
    assert seen.json["header"]["code"] != 10404
    other = {"Penstock-Tenant": "umbrella"}
    theirs = (await operator.call("POST", "/api/v1/athena/keys", creation, headers=other)).json
    for path in ("/v1/private/secret-model", "/v1/secret-model"):
        reply = await post(operator, signed(theirs, path), {"header": {"app_id": "app-1"}})
        assert (reply.status, reply.json) == (404, {"message": "not found"})


async def test_killed_engines_end_their_calls_at_once(operator: HttpCaller, tmp_path: Path) -> None:
    """Every call gets a result or a code, and no place is lost."""
    made = await new_credential(operator)
    assert (await post(operator, signed(made), envelope())).status == 200
    deployment = operator.parts.models.find("ocr")
    calls = [
        asyncio.create_task(post(operator, signed(made), envelope(parameter={"ocr": {"act": act}})))
        for act in ("hang", "", "", "")
    ]
    await until(lambda: deployment.in_flight > 0 and deployment.waiting > 0, "calls run and wait")
    (replica,) = deployment.replicas
    pid = replica.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    first, *others = await asyncio.gather(*calls)
    assert (first.status, first.json["header"]["code"]) == (502, 10109), first.body
    assert [(one.status, one.json["header"]["code"]) for one in others] == [(200, 0)] * 3
    await until(lambda: deployment.in_flight + deployment.waiting == 0, "no place is taken")


async def test_secrets_appear_in_no_response(operator: HttpCaller) -> None:
    made = await new_credential(operator)
    for path in (signed(made), signed(made | {"api_secret": "0" * 32}), f"{OCR}?authorization={made['api_secret']}"):
        reply = await post(operator, path, {"header": {"app_id": made["api_secret"][::-1]}})
        assert made["api_secret"] not in reply.body.decode()
