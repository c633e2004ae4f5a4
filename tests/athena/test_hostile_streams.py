"""Whatever clients send over WebSocket: every message is used, ignored or refused, and nothing stays behind."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.athena.strategies import requests
from tests.support.athena_messages import encode_request
from tests.support.athena_streams import ECHO, client, frame, text_in
from tests.support.engines import put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.hostile_json import KEPT, REFUSED
from tests.support.waiting import until, within

PATH = "/v1/private/echo"
RELAXED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

texts = st.sampled_from(["hello", "", "raise", "x" * 50_000])
cids = st.sampled_from(["a", "b", "c"])
headers = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([0, 1, 2, 3, "1", 7, None]),
        "cid": cids | st.integers(0, 2) | st.just(""),
        "cmd": st.sampled_from(["close", "retry", "", "dance"]),
        "sid": st.sampled_from(["nowhere", ""]),
        "uid": st.text(max_size=5),
    },
)
data = st.fixed_dictionaries(
    {"text": texts.map(lambda text: base64.b64encode(text.encode()).decode()) | st.just("%")},
    optional={
        "status": st.sampled_from([0, 1, 2, 3, 1, 0, "x"]),
        "seq": st.integers(-1, 3),
        "encoding": st.sampled_from(["utf8", "gbk"]),
        "compress": st.sampled_from(["gzip", "raw"]),
    },
)
likely = st.fixed_dictionaries(
    {},
    optional={
        "header": headers,
        "payload": st.dictionaries(st.sampled_from(["words", "more"]), data, max_size=2),
        "parameter": st.sampled_from([{"echo": {"greeting": "hi"}}, {"echo": {"greeting": 1}}, {"echo": 1}, {}]),
        "common": headers,
    },
).map(msgspec.json.encode)
hostile = st.sampled_from([*KEPT.values(), *REFUSED.values()])
valid = st.builds(
    lambda text, status, cid, header: msgspec.json.encode(
        frame(text, status, cid=cid) if header is None else frame(text, status, cid=cid, status=header)
    ),
    texts,
    st.sampled_from([0, 1, 1, 2, 3]),
    cids,
    st.none() | st.sampled_from([0, 1, 2]),
)
messages = valid | valid | valid | likely | hostile | st.binary(max_size=100) | requests().map(encode_request)


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    put_python(folder, "echo", ECHO, extra="concurrency = 4\nqueue = 2")
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        yield caller


async def exchange(caller: HttpCaller, path: str, sent: list[bytes], *, text: bool) -> list[dict[str, Any]]:
    """Send messages, and one that certainly is the last; return what came until the end."""
    received: list[dict[str, Any]] = []
    several = path != PATH
    async with client(caller, path) as socket:
        last = frame("last", 3, cid="last") if several else frame(status=2)
        try:
            for message in [*sent, msgspec.json.encode(last)]:
                await socket.socket.send_frame(message, WSMsgType.TEXT if text else WSMsgType.BINARY)
        except aiohttp.ClientError:
            pass  # it was closed meanwhile
        async for one in socket.socket:
            received.append(msgspec.json.decode(one.data))
            if several and received[-1]["header"].get("cid") == "last":
                return received
        assert socket.socket.close_code in {1000, 1007}
    return received


def check(received: list[dict[str, Any]]) -> None:
    """Check that every message is one of the protocol, and that a session ends once."""
    ended: set[str] = set()
    for message in received:
        header = message["header"]
        assert header["message"]
        assert header["sid"]
        assert header["sid"] not in ended
        if header["code"] or header["status"] in {2, 3}:
            ended.add(header["sid"])
        if header["code"]:
            assert header["code"] not in {11502, 10101}, "no mistake of the gateway, and nothing that is to be ignored"
            assert "payload" not in message


async def check_sound(caller: HttpCaller) -> None:
    """Check that nothing is left, and that the next client is served."""
    model = caller.parts.models.find("echo")
    await until(lambda: model.in_flight == model.waiting == 0, "every place is free", seconds=20)
    await until(lambda: not caller.parts.athena.websockets.sessions.count, "no session is left", seconds=20)
    async with client(caller, PATH) as socket:
        await socket.send(frame("hello", 3))
        assert text_in(await socket.next()) == " hello"


@RELAXED
@given(sent=st.lists(messages, max_size=6), text=st.booleans())
async def test_any_messages_to_one_session(caller: HttpCaller, sent: list[bytes], text: bool) -> None:
    check(await within(exchange(caller, PATH, sent, text=text), 30))
    await check_sound(caller)


@RELAXED
@given(sent=st.lists(messages, max_size=12), text=st.booleans())
async def test_any_messages_to_several_sessions(caller: HttpCaller, sent: list[bytes], text: bool) -> None:
    path = PATH + "?stream_mode=multiplex"
    check(await within(exchange(caller, path, sent, text=text), 30))
    await check_sound(caller)


@RELAXED
@given(frames=st.lists(st.binary(min_size=1, max_size=60), max_size=8))
async def test_any_bytes_behind_the_handshake(caller: HttpCaller, frames: list[bytes]) -> None:
    """Frames that are none: they close the connection, and nothing else."""
    async with client(caller, PATH) as socket:
        connection = socket.socket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.writelines(frames)
        connection.transport.write_eof()
        async for _ in socket.socket:
            pass
    await check_sound(caller)
