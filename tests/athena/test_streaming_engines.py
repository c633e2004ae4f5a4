"""Sessions of wrappers over WebSocket: what clients of the original see."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import wrappers
from tests.support.athena_streams import client, frame, text_in
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until

PATH = "/v1/private/asr"
# Returns each piece in upper case, with its status; some pieces make it do other things.
WRAPPER = """
    class UserRequest(object):
        mark = StringParamField(key="mark", maxLength=10)
        sound = StringBodyField(key="sound", value=b"hello")
        note = StringBodyField(key="note", value=b"")

    class UserResponse(object):
        accept1 = StringBodyField(key="words")

    class Wrapper(WrapperBase):
        serviceId = "asr"
        requestCls = UserRequest()
        responseCls = UserResponse()

        def wrapperInit(self, config: {}) -> int:
            self.params = {}
            return 0

        def wrapperOnceExec(self, params: {}, reqData: DataListCls) -> Response:
            return answer("words", b"once")

        def wrapperError(self, ret):
            return "the engine is unhappy" if ret == 7 else ""

        def wrapperCreate(self, params: {}, sid: str, persId: int = 0) -> SessionCreateResponse:
            made = SessionCreateResponse()
            made.handle = sid
            self.params[sid] = params
            return made

        def wrapperWrite(self, handle: str, req: DataListCls, sid: str) -> int:
            for node in req.list:
                text = node.data.decode()
                if text == "fail":
                    return 7
                if text == "exit":
                    os._exit(9)
                if text == "stop":
                    callback(answer("words", b"I heard enough", status=DataEnd), sid)
                    return 0
                if node.key == "sound":
                    mark = self.params[sid].get("mark", "")
                    callback(answer("words", (mark + text.upper()).encode(), status=node.status), sid)
            return 0

        def wrapperDestroy(self, handle: str) -> int:
            del self.params[handle]
            return 0
"""


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    engine: Path = folder / "asr"
    engine.mkdir()
    wrappers.write(engine, textwrap.dedent(WRAPPER))
    (engine / "model.toml").write_text('runtime = "aiges"\nconcurrency = 4\n')
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        yield caller


@pytest.fixture(autouse=True)
async def _idle(caller: HttpCaller) -> AsyncIterator[None]:
    """After each test, no place is taken."""
    yield
    model = caller.parts.models.find("asr")
    await until(lambda: model.in_flight == model.waiting == 0, "every place is free", seconds=20)


async def test_the_status_of_the_engine_ends_the_session(caller: HttpCaller) -> None:
    async with client(caller, PATH) as socket:
        first = frame("one", 0, name="sound", app_id="a", status=0) | {"parameter": {"asr": {"mark": "> "}}}
        await socket.send(first)
        assert (await socket.next())["header"]["status"] == 0
        message = await socket.next()
        assert (message["header"]["status"], text_in(message, "words")) == (0, "> ONE")
        await socket.send(frame("two", 1, name="sound"))
        message = await socket.next()
        assert (message["header"]["status"], message["payload"]["words"]["seq"]) == (1, 2)
        await socket.send(frame("three", 2, name="sound"))
        message = await socket.next()
        assert (message["header"]["status"], message["payload"]["words"]["status"]) == (2, 2)
        assert text_in(message, "words") == "> THREE"
        assert await socket.closed() == (1000, "")


async def test_an_engine_that_has_heard_enough_ends_the_session(caller: HttpCaller) -> None:
    """What the client sends after that is ignored."""
    async with client(caller, PATH) as socket:
        await socket.send(frame("one", 0, name="sound"))
        await socket.send(frame("stop", 1, name="note"))
        await socket.send(frame("two", 1, name="sound"))
        messages, closed = await socket.rest()
        assert [one["header"]["status"] for one in messages] == [0, 0, 2]
        assert text_in(messages[-1], "words") == "I heard enough"
        assert closed == (1000, "")


async def test_everything_in_one_message_is_a_session_too(caller: HttpCaller) -> None:
    """It may omit what the engine can do without: here the note."""
    async with client(caller, PATH) as socket:
        await socket.send(frame("all", 3, name="sound", status=3))
        message = await socket.next()
        assert (message["header"]["status"], text_in(message, "words")) == (3, "ALL")
        assert await socket.closed() == (1000, "")


async def test_the_code_and_words_of_an_engine_reach_the_client(caller: HttpCaller) -> None:
    async with client(caller, PATH) as socket:
        await socket.send(frame("one", 0, name="sound"))
        await socket.send(frame("fail", 1, name="sound"))
        messages, closed = await socket.rest()
        header = messages[-1]["header"]
        assert header["code"] == 10907
        assert header["message"].endswith("the engine is unhappy;code=7")
        assert closed == (1000, header["message"])


async def test_a_parameter_that_breaks_a_rule_is_named(caller: HttpCaller) -> None:
    async with client(caller, PATH) as socket:
        await socket.send(frame("one", 0, name="sound") | {"parameter": {"asr": {"mark": "x" * 11}}})
        code, message = await socket.failure()
        assert code == 10163
        assert "parameter.asr.mark" in message


async def test_a_crash_ends_the_sessions_of_the_engine_at_once(caller: HttpCaller) -> None:
    async with client(caller, PATH) as one, client(caller, PATH) as other:
        for socket in (one, other):
            await socket.send(frame("one", 0, name="sound"))
            assert (await socket.next())["header"]["status"] == 0
            assert text_in(await socket.next(), "words") == "ONE"
        await one.send(frame("exit", 1, name="sound"))
        assert [(await socket.failure())[0] for socket in (one, other)] == [10109, 10109]
