"""Sessions over WebSocket with services whose documents state rules, limits and routes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.athena_streams import ECHO, client, frame, text_in
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

DOCUMENT: dict[str, Any] = {
    "meta": {"serviceId": "ruled", "sub": "rld", "build_header": True, "enable_retry": True, "session_timeout": 2},
    "schemainput": {
        "type": "object",
        "properties": {
            "header": {
                "type": "object",
                "properties": {
                    "app_id": {"type": "string"},
                    "trace": {"type": "string"},
                    "status": {"type": "integer", "defaultVal": 3},
                },
                "required": ["trace"],
            },
            "parameter": {
                "type": "object",
                "properties": {
                    "ruled": {
                        "type": "object",
                        "properties": {"hello": {"type": "string", "replaceKey": "greeting", "defaultVal": "hi "}},
                    }
                },
            },
            "payload": {
                "type": "object",
                "properties": {
                    "words": {
                        "type": "object",
                        "properties": {
                            "status": {"type": "integer", "defaultVal": 3},
                            "encoding": {"constVal": "utf8"},
                            "text": {"type": "string", "maxLength": 20},
                        },
                        "required": ["text"],
                    }
                },
                "required": ["words"],
            },
        },
    },
}
CATEGORY = {
    "meta": {
        "serviceId": "any",
        "type": "category",
        "subRoute": [{"subServiceId": "echo", "rules": {"$.header.kind": "echo"}}],
    }
}


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("echo", "ruled", "any"):
        put_python(folder, name, ECHO, extra="concurrency = 4")
    (folder / "ruled" / "athena.json").write_text(json.dumps(DOCUMENT))
    (folder / "any" / "athena.json").write_text(json.dumps(CATEGORY))
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        for name in ("echo", "ruled"):  # loads them
            assert (await caller.post(f"/models/{name}/predict", {"words": "hello"})).status == 200
        yield caller


async def test_rules_apply_to_every_message_and_statuses_have_no_defaults(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send(frame("one", 0, trace="t-1"))
        accepted = await socket.next()
        assert accepted["header"]["sid"].startswith("rld")
        assert (accepted["header"]["status"], accepted["header"]["trace"]) == (0, "t-1")
        message = await socket.next()
        assert (text_in(message), message["header"]["trace"]) == ("hi 1 one", "t-1")
        await socket.send(frame("two", uid="ada"))  # a header without a status
        assert await socket.result() == (1, "hi 2 two")
        await socket.send(frame("this is much too long", 1))
        code, words = await socket.failure()
        assert (code, "payload.words.text" in words) == (10163, True)


async def test_the_first_message_of_a_session_needs_no_data_but_its_parameters(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send({"header": {"status": 0, "trace": "t"}})
        assert (await socket.next())["header"]["status"] == 0
        await socket.send(frame("one", 2))
        assert await socket.result() == (0, "hi 1 one")
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send({"header": {"status": 0}})
        assert (await socket.failure())[1].endswith("header.trace: is required")
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send({"header": {"trace": "t"}})
        assert (await socket.failure())[1].endswith("words: is required")


async def test_the_document_states_limits_and_whether_sessions_may_be_retried(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send(frame("one", 0, trace="t"))
        sid = (await socket.next())["header"]["sid"]
        await socket.cut()
    async with client(caller, "/v1/private/ruled") as socket:
        await socket.send(frame(cmd="retry", sid=sid))
        messages, closed = await socket.rest()
        assert (messages[-1]["header"]["code"], closed) == (10114, (1000, "session timeout"))
        assert messages[-1]["header"]["sid"] == sid


async def test_a_category_passes_sessions_to_its_services(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/any") as socket:
        await socket.send(frame("one", 0, kind="echo"))
        assert (await socket.next())["header"]["status"] == 0
        await socket.send(frame("two", 2))
        assert [(await socket.result())[1] for _ in range(4)] == ["1 one", "2 two", "end", ""]
    async with client(caller, "/v1/private/any") as socket:
        await socket.send(frame("one", 0, kind="other"))
        assert (await socket.failure())[0] == 10163


async def test_a_session_is_not_a_task(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/echo") as socket:
        await socket.send(frame("one", 0) | {"header": {"status": 0, "downMethod": "async"}})
        code, words = await socket.failure()
        assert (code, "header.downMethod" in words) == (10163, True)


async def test_a_session_is_with_one_service(caller: HttpCaller) -> None:
    async with client(caller, "/v1/private/echo") as socket:
        await socket.send(frame("one", 0, name="echo_words") | {"parameter": {"echo": {}, "ruled": {}}})
        code, words = await socket.failure()
        assert (code, "several services" in words) == (10163, True)
    model = caller.parts.models.find("echo")
    await until(lambda: model.in_flight == 0, "no place is taken")
