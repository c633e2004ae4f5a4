"""Engines in C, and plugins, as services: routes over HTTP and WebSocket that their descriptions give them."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.models.replica.aiges.c_interface import HEADERS
from tests.support.athena_streams import client, frame, text_in
from tests.support.gateways import HttpCaller, Reply, running_gateway
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
PLUGIN = f"""
runtime = "aiges-plugin"
concurrency = 4
environment = {{ PYTHONPATH = "{ROOT}/src" }}

[aiges-plugin]
command = ["{sys.executable}", "{ROOT}/tests/models/aiges/plugin.py"]
sessions = true
"""
STATED = """
[schema.input]
type = "object"
required = ["payload"]

[schema.input.properties.parameter.properties]
mode = { type = "string" }

[schema.input.properties.payload.properties.text]
type = "object"
required = ["text"]

[schema.session]
"""


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("upper-c", "levels-cpp"):
        engine = folder / name
        shutil.copytree(ROOT / "examples" / "athena" / name, engine, ignore=shutil.ignore_patterns("*.so"))
        make = ["make", "-s", "-C", str(engine), f"AIGES_INCLUDE={HEADERS}"]
        subprocess.run(make, check=True, timeout=60)  # noqa: ASYNC221 - before the tests
    described = {"echo": "", "echo-stated": STATED, "echo-stated-broadly": '[schema.input]\ntype = "object"\n'}
    for name, schema in described.items():
        (folder / name).mkdir()
        (folder / name / "model.toml").write_text(PLUGIN + schema)
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        yield caller


@pytest.fixture(autouse=True)
async def _idle(caller: HttpCaller) -> AsyncIterator[None]:
    """After each test, no place is taken."""
    yield
    for name in ("upper-c", "levels-cpp", "echo", "echo-stated", "echo-stated-broadly"):
        model = caller.parts.models.find(name)
        await until(lambda model=model: model.in_flight == model.waiting == 0, "every place is free")  # type: ignore[misc]


async def post(caller: HttpCaller, service: str, text: bytes, **parameter: Any) -> Reply:
    message = {
        "header": {"app_id": "a", "status": 3},
        "parameter": {service: parameter},
        "payload": {"text": {"text": base64.b64encode(text).decode(), "encoding": "utf8", "status": 3}},
    }
    return await caller.call("POST", f"/v1/private/{service}", message)


async def test_a_library_is_called_over_http(caller: HttpCaller) -> None:
    reply = await post(caller, "upper-c", b"hello")
    assert reply.status == 200, reply.body
    assert reply.json["header"]["code"] == 0
    assert base64.b64decode(reply.json["payload"]["upper"]["text"]) == b"HELLO"


async def test_the_quick_start_calls_a_library(caller: HttpCaller) -> None:
    """The pages of other languages have the same request, see test_chinese_pages.py."""
    page = (ROOT / "docs" / "athena" / "README.md").read_text()
    found = re.search(r"curl -s http://127\.0\.0\.1:8080(\S+) .*?-d '(.*?)'\n", page, re.DOTALL)
    assert found is not None
    reply = await caller.call("POST", found[1], json.loads(found[2]))
    assert base64.b64decode(reply.json["payload"]["upper"]["text"]) == b"HELLO"


async def test_the_error_of_a_library_has_its_code_and_message(caller: HttpCaller) -> None:
    reply = await post(caller, "upper-c", b"")
    assert reply.json["header"]["code"] == 10909
    assert reply.json["header"]["message"].endswith("there is no text;code=4001")


async def test_a_library_with_a_schema_of_penstock_is_called(caller: HttpCaller) -> None:
    def message(data: bytes, status: int) -> dict[str, Any]:
        audio = {"audio": base64.b64encode(data).decode(), "encoding": "raw", "status": status}
        return {"header": {"app_id": "a", "status": status}, "payload": {"audio": audio}}

    reply = await caller.call("POST", "/v1/private/levels-cpp", message(b"\0\0\xff\x7f\0\x80", 3))
    assert reply.status == 200, reply.body
    assert peak(reply.json) == 32768
    async with client(caller, "/v1/private/levels-cpp") as socket:
        await socket.send(message(b"\0\0\xff\x7f", 0))
        await socket.send(message(b"\0\x80", 2))
        messages, _ = await socket.rest()
    assert all(one["header"]["code"] == 0 for one in messages), messages
    assert [peak(one) for one in messages if "payload" in one][-1] == 32768
    missing = await caller.call("POST", "/v1/private/levels-cpp", {"header": {"app_id": "a"}})
    assert (missing.status, missing.json["header"]["code"]) == (400, 10163)
    document = (await caller.call("GET", "/v1/private/levels-cpp/openapi.json")).body
    assert b'"audio"' in document


def peak(message: dict[str, Any]) -> int:
    found: int = message["payload"]["levels"]["text"]["peak"]
    return found


@pytest.mark.parametrize("service", ["echo", "echo-stated", "echo-stated-broadly"])
async def test_a_plugin_is_called_over_http(caller: HttpCaller, service: str) -> None:
    reply = await post(caller, service, b"hello", mode="")
    assert reply.status == 200, reply.body
    assert reply.json["payload"]["echo"]["text"]["data"][0][:2] == ["text", "hello"]
    failed = await post(caller, service, b"hello", mode="ret")
    assert failed.json["header"]["code"] == 10909
    assert failed.json["header"]["message"].endswith("the engine reported an error;code=4001")


@pytest.mark.parametrize(("service", "result"), [("upper-c", "upper"), ("echo", "echo"), ("echo-stated", "echo")])
async def test_sessions_run_over_websocket(caller: HttpCaller, service: str, result: str) -> None:
    path = f"/v1/private/{service}"
    async with client(caller, path) as socket:
        await socket.send(frame("one", 0, name="text", app_id="a", status=0))
        for text, status in (("two", 1), ("three", 2)):
            await socket.send(frame(text, status, name="text"))
        messages, _ = await socket.rest()
    assert all(message["header"]["code"] == 0 for message in messages), messages
    assert messages[-1]["header"]["status"] == 2
    said = [text_in(message, result).rpartition(" ")[2] for message in messages]
    expected = ["ONE", "TWO", "THREE"] if service == "upper-c" else ["one", "two", "three"]
    assert [one for one in said if one] == expected


async def test_an_engine_that_requires_no_data_gets_a_call_without_any(caller: HttpCaller) -> None:
    """However the message leaves it out, and over HTTP as over WebSocket."""
    empty: list[dict[str, Any]] = [{}, {"payload": {}}, {"header": {"app_id": "a", "status": 3}}]
    for message in empty:
        assert (await caller.call("POST", "/v1/private/echo", message)).status == 200
        assert (await caller.call("POST", "/api/v1/models/echo/predict", message)).status == 200
    async with client(caller, "/v1/private/echo") as socket:
        await socket.send(empty[-1])
        messages, _ = await socket.rest()
    assert [(one["header"]["code"], one["header"]["status"]) for one in messages] == [(0, 3)]


@pytest.mark.parametrize("first", [{}, {"payload": {}}, {"header": {"app_id": "a"}}])
@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("upper-c", 0, 0),  # its document has no default for the status: data may follow
        ("echo", 0, 3),  # by default, nothing follows
        ("echo-stated", 10163, None),  # its schema requires data
    ],
)
async def test_a_first_message_without_data_is_answered(
    caller: HttpCaller, service: str, code: int, status: int | None, first: dict[str, Any]
) -> None:
    async with client(caller, f"/v1/private/{service}") as socket:
        await socket.send(first)
        header = (await socket.next())["header"]
    assert (header["code"], header.get("status")) == (code, status), header
