"""Sessions over WebSocket: parts in, results out, and every way in which they end."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.engine_calls import CallInput
from penstock.athena.sessions.forms import ModelForm
from penstock.masking import Secret
from penstock.web.limits import Limits
from tests.support.athena_streams import ECHO, Client, client, frame, text_in
from tests.support.engines import put_engine, put_python
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.waiting import until, within

PATH = "/v1/private/echo"
SINGLE = """
    class Model:
        def predict(self, words: str) -> str:
            return words
"""
OCR = "/v1/private/ocr"


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    put_engine(folder)
    put_python(folder, "echo", ECHO, extra="concurrency = 4\nqueue = 2")
    put_python(folder, "single", SINGLE)
    return folder


@pytest.fixture(scope="module")
async def caller(module_database_url: str, models_folder: Path) -> AsyncIterator[HttpCaller]:
    async with running_gateway(module_database_url, models_folder=models_folder) as caller:
        yield caller


async def warm(caller: HttpCaller) -> None:
    """Have the model loaded."""
    assert (await caller.post("/models/echo/predict", {"words": "hello"})).status == 200


async def idle(caller: HttpCaller, name: str = "echo") -> None:
    """Wait until no place of a model is taken, and no session is left."""
    model = caller.parts.models.find(name)
    await until(lambda: model.in_flight == model.waiting == 0, "every place is free", seconds=10)
    await until(lambda: not caller.parts.athena.websockets.sessions.count, "no session is left", seconds=10)


async def begun(socket: Client, text: str = "one", **header: Any) -> str:
    """Begin a session, and return its id once the engine has returned the first part."""
    await socket.send(frame(text, 0, **header))
    accepted = await socket.next()
    assert (accepted["header"]["code"], accepted["header"]["status"]) == (0, 0)
    assert (await socket.result())[1] == f"1 {text}"
    sid: str = accepted["header"]["sid"]
    return sid


class TestOneSession:
    async def test_results_leave_while_parts_come(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await socket.send(frame("one", 0, status=0) | {"parameter": {"echo": {"greeting": "hi "}}})
            accepted = await socket.next()
            assert accepted["header"]["status"] == 0
            assert "payload" not in accepted
            first = await socket.next()
            assert (first["header"]["status"], text_in(first)) == (0, "hi 1 one")
            assert (first["payload"]["result"]["status"], first["payload"]["result"]["seq"]) == (0, 1)
            assert first["header"]["sid"] == accepted["header"]["sid"]
            await socket.send(frame("two", 1))
            assert await socket.result() == (1, "hi 2 two")
            await socket.send(frame("three", 2))
            assert [await socket.result() for _ in range(3)] == [(1, "hi 3 three"), (1, "end"), (2, "")]
            assert await socket.closed() == (1000, "")
        await idle(caller)

    async def test_the_end_may_hold_no_data(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.send({"header": {"status": 2}})
            assert [await socket.result() for _ in range(2)] == [(1, "end"), (2, "")]
            assert await socket.closed() == (1000, "")

    async def test_one_message_with_everything_is_a_call(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await socket.send(frame("hello", 3, status=3) | {"parameter": {"echo": {"greeting": "hi"}}})
            message = await socket.next()
            assert (message["header"]["status"], text_in(message)) == (3, "hi hello")
            assert message["payload"]["result"]["status"] == 3
            assert await socket.closed() == (1000, "")

    async def test_a_model_without_sessions_takes_one_message(self, caller: HttpCaller) -> None:
        image = {"img": {"image": base64.b64encode(b"picture").decode(), "encoding": "png"}}
        expected = {"ocr": {"boxes": {"format": "json"}}}
        async with client(caller, OCR) as socket:
            await socket.send({"header": {"app_id": "a", "status": 3}, "parameter": expected, "payload": image})
            message = await socket.next()
            assert message["header"]["status"] == 3
            assert message["payload"]["boxes"]["text"]["bytes"] == 7
            assert message["payload"]["boxes"]["text"]["sid"] == message["header"]["sid"]
            assert await socket.closed() == (1000, "")
        async with client(caller, OCR) as socket:
            await socket.send({"header": {"app_id": "a", "status": 0}, "payload": image})
            code, reason = await socket.failure()
            assert (code, await socket.closed()) == (10163, (1000, reason))  # the description allows status 3 only
        async with client(caller, "/v1/private/single") as socket:
            await socket.send(frame("hello", 0))
            code, reason = await socket.failure()
            assert (code, await socket.closed()) == (10004, (1000, reason))

    async def test_binary_messages_may_hold_the_same_json(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await socket.send(json.dumps(frame("hello", 3)).encode())
            assert (await socket.result())[0] == 3

    async def test_messages_after_the_last_one_are_ignored(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await socket.send(frame("one", 0))
            await socket.send(frame("two", 2))
            await socket.send(frame("three", 2))
            assert [(await socket.result())[1] for _ in range(5)] == ["", "1 one", "2 two", "end", ""]
            assert await socket.closed() == (1000, "")

    async def test_the_codes_that_are_ignored_can_be_set(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_ignored_codes=(10160,)
        ) as caller:
            async with client(caller, PATH) as socket:
                await begun(socket)
                await socket.send("{")  # is ignored
                await socket.send(frame("wait", 2))
                await socket.send(frame("three", 2))
                assert (await socket.failure())[0] == 10101
                assert (await socket.closed())[0] == 1000
            await idle(caller)


class TestMistakes:
    async def test_an_output_that_cannot_be_read_is_the_engines_failure(self, caller: HttpCaller) -> None:
        async with client(caller, OCR) as socket:
            await socket.send(
                {
                    "header": {"app_id": "a", "status": 3},
                    "parameter": {"ocr": {"act": "nonsense"}},
                    "payload": {"img": {"image": "aGVsbG8=", "status": 3}},
                }
            )
            code, words = await socket.failure()
            assert (code, "without a payload" in words) == (10909, True)
            assert (await socket.closed())[0] == 1000

    @pytest.mark.parametrize(
        ("message", "code", "words"),
        [
            ("{", 10160, "not valid JSON"),
            ("[1]", 10163, "must be a JSON object"),
            (b"\xff\xfe", 10160, "UTF-8"),
            ("[" * 100_000, 10160, "nested"),
            (frame("one", 1), 10163, "must have status 0"),
            (frame(status=2), 10163, "must have status 0"),
            (frame("one", 7), 10163, "payload.words.status"),
            ({"payload": {"words": {"text": "%%%", "status": 0}}}, 10161, "payload.words.text"),
            ({"payload": {"words": "text"}}, 10163, "payload.words"),
            ({"payload": {"picture": {"image": "aGVsbG8=", "status": 3}}}, 10163, "picture"),
            (frame("one", 0, cmd="dance"), 10163, "header.cmd"),
            (frame("one", 0, cid="c" * 65), 10163, "header.cid"),
            (frame(cmd="retry", sid="nowhere"), 10165, "cannot be continued"),
        ],
    )
    async def test_a_first_message_with_a_mistake_gets_its_code_and_a_close(
        self, caller: HttpCaller, message: Any, code: int, words: str
    ) -> None:
        async with client(caller, PATH) as socket:
            await socket.send(message)
            found, reason = await socket.failure()
            assert found == code
            assert words in reason
            closed = await socket.closed()
            assert closed[0] == 1000
            assert reason.startswith(closed[1])
        await idle(caller)

    @pytest.mark.parametrize(
        ("message", "code"), [("{", 10160), ({}, 10163), (frame("one", 9), 10163), (frame("on", 1, name="a b"), None)]
    )
    async def test_a_mistake_ends_a_session_that_runs(self, caller: HttpCaller, message: Any, code: int | None) -> None:
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.send(message)
            if code is None:  # a part may have any name
                assert await socket.result() == (1, "2 on")
            else:
                assert (await socket.failure())[0] == code
                assert (await socket.closed())[0] == 1000
        await idle(caller)

    async def test_a_message_over_the_limit_closes(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_message_bytes=2000
        ) as caller:
            async with client(caller, PATH) as socket:
                await begun(socket)
                await socket.send(frame("x" * 3000, 1))
                assert (await socket.closed())[0] == 1009
            await idle(caller)

    async def test_large_messages_share_a_bound(self, module_database_url: str, models_folder: Path) -> None:
        """A connection whose message finds no space is closed; the space of messages that were read is free again."""
        async with running_gateway(
            module_database_url, models_folder=models_folder, limits=Limits(bodies_bytes=1_000_000)
        ) as caller:
            async with client(caller, PATH) as socket:
                for number in range(4):
                    await socket.send(frame("x" * 600_000, 1 if number else 0))
                for number in range(5):
                    assert len((await socket.result())[1]) == (number and 600_002)
                await socket.send(frame("x" * 1_500_000, 1))
                assert (await socket.closed())[0] == 1013
            await idle(caller)

    async def test_an_error_of_the_model_ends_its_session(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.send(frame("raise", 1))
            code, reason = await socket.failure()
            assert code == 10909
            assert "unhappy" in reason
            assert await socket.closed() == (1000, reason)
        await idle(caller)

    async def test_a_crash_of_the_engine_ends_its_sessions_at_once(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket, client(caller, PATH) as other:
            await begun(socket)
            await begun(other)
            await socket.send(frame("exit", 1))
            assert [(await one.failure())[0] for one in (socket, other)] == [10109, 10109]
            assert [(await one.closed())[0] for one in (socket, other)] == [1000, 1000]
        await idle(caller)
        async with client(caller, PATH) as socket:
            await begun(socket)

    async def test_sessions_beyond_the_places_and_the_queue_are_refused(self, caller: HttpCaller) -> None:
        await warm(caller)
        await idle(caller)
        sockets = [await caller.session.ws_connect(caller.address + PATH) for _ in range(7)]
        try:
            clients = [Client(socket) for socket in sockets]
            for one in clients[:6]:  # four run, two wait
                await one.send(frame("one", 0))
                assert (await one.next())["header"]["status"] == 0
            await clients[6].send(frame("one", 0))
            assert (await clients[6].failure())[0] == 10110
            assert (await clients[6].closed())[0] == 1000
            await clients[0].socket.close()
            assert (await clients[1].result())[1] == "1 one"
            await clients[4].send(frame("two", 2))
            assert [(await clients[4].result())[1] for _ in range(3)] == ["1 one", "2 two", "end"]
        finally:
            for socket in sockets:
                await socket.close()
        await idle(caller)


class TestClients:
    async def test_a_client_that_leaves_ends_its_session_at_once(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await begun(socket)
        await idle(caller)

    async def test_a_client_that_is_lost_ends_its_session_at_once(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.cut()
            await idle(caller)

    async def test_a_client_that_is_lost_while_the_engine_takes_nothing_ends_its_session(
        self, caller: HttpCaller
    ) -> None:
        """Its connection is not read then."""
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.send(frame("wait", 1))
            for _ in range(40):
                await socket.send(frame("x" * 100_000, 1))
            await until(lambda: caller.server.held_back == 1, "the server reads no more")
            await socket.cut()
            await idle(caller)

    async def test_a_client_that_reads_nothing_blocks_only_itself(self, caller: HttpCaller) -> None:
        async with client(caller, PATH) as slow, client(caller, PATH) as other:
            slow.socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
            await slow.send(frame("flood", 0))
            await until(lambda: caller.server.unsent_bytes > 100_000, "its buffer is full")
            await begun(other)
            await other.send(frame("two", 2))
            assert [(await other.result())[1] for _ in range(3)] == ["2 two", "end", ""]
            assert caller.server.unsent_bytes < 1_000_000
            await slow.cut()
        await idle(caller)

    async def test_a_silent_client_is_closed(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_read_timeout=timedelta(seconds=0.3)
        ) as caller:
            await warm(caller)
            async with client(caller, PATH) as socket:
                assert await socket.closed() == (1000, "time out")
            async with client(caller, PATH) as socket:
                await socket.send(frame("one", 0))
                messages, closed = await socket.rest()
                assert closed == (1000, "time out")
                assert not any(one["header"]["code"] for one in messages)
            await idle(caller)

    async def test_a_client_that_has_sent_everything_may_wait(
        self, module_database_url: str, models_folder: Path
    ) -> None:
        async with running_gateway(
            module_database_url,
            models_folder=models_folder,
            penstock_athena_read_timeout=timedelta(seconds=0.5),
            penstock_athena_session_timeout=timedelta(seconds=2),
        ) as caller:
            await warm(caller)
            async with client(caller, PATH) as socket:
                await socket.send(frame("wait", 3, status=0))
                await socket.send({"header": {"status": 2}})
                messages, closed = await socket.rest()
                assert [one["header"]["code"] for one in messages] == [0, 10114]
                assert closed == (1000, "session timeout")
            await idle(caller)

    async def test_a_long_session_is_ended(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_session_timeout=timedelta(seconds=0.3)
        ) as caller:
            await warm(caller)
            async with client(caller, PATH) as socket:
                await socket.send(frame("one", 0))
                messages, closed = await socket.rest()
                assert (messages[-1]["header"]["code"], closed) == (10114, (1000, "session timeout"))
            await idle(caller)


class TestAccess:
    async def test_what_is_not_allowed_is_refused_before_there_is_a_websocket(
        self, module_database_url: str, models_folder: Path
    ) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, ai_service_token=Secret("operators-token")
        ) as caller:
            for path, headers, status in (
                (PATH, {"Authorization": ""}, 401),
                (PATH, {"Authorization": "Bearer wrong"}, 401),
                ("/v1/private/nothing", {}, 404),
                (PATH + "?stream_mode=other", {}, 400),
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await caller.session.ws_connect(caller.address + path, headers=headers)
                assert refused.value.status == status
            assert (await caller.get(PATH)).status == 426

    async def test_a_revoked_key_ends_its_sessions(self, database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            database_url, models_folder=models_folder, ai_service_token=Secret("operators-token")
        ) as caller:
            made = (await caller.post("/athena/keys", {"name": "n", "app_id": "app-1", "services": ["echo"]})).json
            headers = {"Authorization": f"Bearer {made['key']}"}
            async with client(caller, PATH, headers=headers) as socket:
                await begun(socket, app_id="app-1")
                assert (await caller.post(f"/athena/keys/{made['id']}/revoke")).status == 200
                assert (await socket.closed())[0] == 1008
            await idle(caller)

    async def test_stopping_closes_and_ends_sessions(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(module_database_url, models_folder=models_folder) as caller:
            async with client(caller, PATH) as socket:
                await begun(socket)
                caller.gateway.stopping.set()
                assert (await socket.closed())[0] == 1001
            await idle(caller)


class TestRetries:
    async def test_a_cut_session_goes_on_with_another_connection(self, caller: HttpCaller) -> None:
        async with client(caller, PATH + "?enable_retry=true") as socket:
            sid = await begun(socket)
            await socket.cut()
        async with client(caller, PATH) as socket:
            await socket.send(frame(cmd="retry", sid=sid))
            await socket.send(frame("two", 1))
            assert await socket.result() == (1, "2 two")
            await socket.send(frame("three", 2))
            assert [await socket.result() for _ in range(3)] == [(1, "3 three"), (1, "end"), (2, "")]
            assert await socket.closed() == (1000, "")
        await idle(caller)

    async def test_numbered_data_that_is_sent_again_is_left_out(self, caller: HttpCaller) -> None:
        def numbered(text: str, status: int, seq: int) -> dict[str, Any]:
            message = frame(text, status)
            message["payload"]["words"]["seq"] = seq
            return message

        async with client(caller, PATH + "?enable_retry=true") as socket:
            await socket.send(numbered("one", 0, 1))
            sid = (await socket.next())["header"]["sid"]
            assert (await socket.result())[1] == "1 one"
            await socket.cut()
        async with client(caller, PATH) as socket:
            await socket.send({"common": {"cmd": "retry", "sid": sid, "app_id": "a"}, "data": {}})  # the older form
            await socket.send(numbered("one", 0, 1))
            await socket.send(numbered("two", 2, 2))
            assert [(await socket.result())[1] for _ in range(3)] == ["2 two", "end", ""]

    async def test_a_retry_takes_a_session_from_a_connection_that_is_not_known_to_be_lost(
        self, caller: HttpCaller
    ) -> None:
        async with client(caller, PATH + "?enable_retry=true") as old, client(caller, PATH) as socket:
            sid = await begun(old)
            await socket.send(frame(cmd="retry", sid=sid))
            assert (await old.closed())[0] == 1000
            await socket.send(frame("two", 2))
            assert (await socket.result())[1] == "2 two"

    async def test_a_retry_may_rename_its_session(self, caller: HttpCaller) -> None:
        """The end of the connection that the session has left does not end it."""
        path = PATH + "?stream_mode=multiplex&enable_retry=true"
        async with client(caller, path) as socket:
            async with client(caller, path) as old:
                sid = await begun(old, cid="a")
                await socket.send(frame(cmd="retry", sid=sid, cid="b"))
                await socket.send(frame("two", 1, cid="b"))
                assert await socket.result() == (1, "2 two")
                await begun(old, cid="b")
            model = caller.parts.models.find("echo")
            await until(lambda: model.in_flight == 1, "the session of the other connection has ended")
            await socket.send(frame(cmd="retry", sid=sid, cid="c"))  # on the same connection
            await socket.send(frame("three", 1, cid="c"))
            message = await socket.next()
            assert (text_in(message), message["header"]["cid"]) == ("3 three", "c")
            await begun(socket, cid="b")
            await socket.send(frame("four", 2, cid="c"))
            assert [await socket.result() for _ in range(3)] == [(1, "4 four"), (1, "end"), (2, "")]
        await idle(caller)

    async def test_a_cut_session_ends_after_its_window(self, module_database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_close_wait=timedelta(seconds=0.5),
            penstock_athena_enable_retry=True,
        ) as caller:  # fmt: skip
            async with client(caller, PATH) as socket:
                sid = await begun(socket)
                await socket.cut()
                await idle(caller)
            async with client(caller, PATH) as socket:
                await socket.send(frame(cmd="retry", sid=sid))
                assert (await socket.failure())[0] == 10165
            async with client(caller, PATH) as socket:  # it says that it leaves
                await begun(socket)
            await idle(caller)

    async def test_a_session_is_found_by_its_own_key_only(self, database_url: str, models_folder: Path) -> None:
        async with running_gateway(
            database_url, models_folder=models_folder, ai_service_token=Secret("operators-token")
        ) as caller:
            keys = [(await caller.post("/athena/keys", {"name": name, "app_id": "app-1"})).json["key"] for name in "ab"]
            headers = [{"Authorization": f"Bearer {key}"} for key in keys]
            async with (
                client(caller, PATH + "?enable_retry=true", headers=headers[0]) as owner,
                client(caller, PATH, headers=headers[1]) as stranger,
            ):
                sid = await begun(owner, app_id="app-1")
                await stranger.send(frame(cmd="retry", sid=sid))
                assert (await stranger.failure())[0] == 10165
                await owner.send(frame("two", 2))
                assert (await owner.result())[1] == "2 two"


class TestSeveralSessions:
    MULTIPLEX = PATH + "?stream_mode=multiplex"

    async def test_sessions_are_distinguished_by_cid(self, caller: HttpCaller) -> None:
        async with client(caller, self.MULTIPLEX) as socket:
            for cid in ("a", "b"):
                await socket.send(frame(f"one {cid}", 0, cid=cid))
            for cid in ("b", "a"):
                await socket.send(frame(f"two {cid}", 2, cid=cid))
            texts: dict[str, list[str]] = {"a": [], "b": []}
            ends = 0
            while ends < 2:
                message = await socket.next()
                texts[message["header"]["cid"]].append(text_in(message))
                ends += message["header"]["status"] == 2
            for cid, found in texts.items():
                assert found == ["", f"1 one {cid}", f"2 two {cid}", "end", ""]
            await socket.send(frame("again", 3, cid="a"))  # the connection stays
            assert (await socket.result())[0] == 3
        await idle(caller)

    async def test_a_failure_ends_one_session_only(self, caller: HttpCaller) -> None:
        async with client(caller, self.MULTIPLEX) as socket:
            await begun(socket, cid="a")
            await begun(socket, cid="b")
            await socket.send(frame("raise", 1, cid="a"))
            failed = (await socket.next())["header"]
            assert (failed["code"], failed["cid"]) == (10909, "a")
            await socket.send(frame("late", 1, cid="a"))  # is ignored
            await socket.send("{")
            assert (await socket.failure())[0] == 10160
            await socket.send(frame("no cid", 0))
            assert (await socket.failure())[0] == 10163
            await socket.send(frame("two", 2, cid="b"))
            assert [(await socket.result())[1] for _ in range(3)] == ["2 two", "end", ""]
        await idle(caller)

    async def test_a_deep_value_ends_one_session_only(self, caller: HttpCaller) -> None:
        def picture(cid: str, image: object) -> dict[str, Any]:
            payload = {"img": {"image": image, "encoding": "png", "status": 3}}
            return {"header": {"app_id": "app-1", "cid": cid, "status": 3}, "payload": payload}

        deep: Any = "aGVsbG8="
        for _ in range(450):
            deep = [deep]
        async with client(caller, OCR + "?stream_mode=multiplex") as socket:
            await socket.send(picture("z", deep))
            failed = (await socket.next())["header"]
            assert (failed["code"], failed["cid"]) == (10163, "z")
            await socket.send(picture("a", "aGVsbG8="))
            header = (await socket.next())["header"]
            assert (header["code"], header["cid"]) == (0, "a"), header

    async def test_close_ends_a_session_without_a_response(self, caller: HttpCaller) -> None:
        async with client(caller, self.MULTIPLEX) as socket:
            await begun(socket, cid="a")
            await socket.send(frame(cid="a", cmd="close"))
            await idle(caller)
            await socket.send({"common": {"cid": "a", "cmd": "close"}, "data": {}})  # again, in the older form
            await begun(socket, cid="a")
        async with client(caller, PATH) as socket:
            await begun(socket)
            await socket.send(frame(cmd="close"))
            assert await socket.closed() == (1000, "")
        await idle(caller)

    async def test_an_engine_that_takes_nothing_ends_its_own_session(self, caller: HttpCaller) -> None:
        """No more than a bound of bytes waits for it, and the others on the connection go on."""
        async with client(caller, self.MULTIPLEX) as socket:
            await begun(socket, cid="slow")
            await begun(socket, cid="quick")
            await socket.send(frame("wait", 1, cid="slow"))
            for _ in range(40):
                await socket.send(frame("x" * 100_000, 1, cid="slow"))
            await socket.send(frame("two", 2, cid="quick"))
            messages = [await socket.next() for _ in range(4)]
            failed = [one["header"] for one in messages if one["header"]["code"]]
            assert [(one["code"], one["cid"]) for one in failed] == [(10110, "slow")]
            assert [text_in(one) for one in messages if not one["header"]["code"]] == ["2 two", "end", ""]
        await idle(caller)

    @pytest.mark.parametrize(("text", "count"), [("", 1100), ("\u4e00" * 20_000, 30)])
    async def test_what_waits_for_an_engine_is_bounded_by_its_memory(
        self, caller: HttpCaller, text: str, count: int
    ) -> None:
        """Each message counts with its overhead, and characters with their bytes."""
        async with client(caller, self.MULTIPLEX) as socket:
            sid = await begun(socket, cid="a")
            session, _ = caller.parts.athena.websockets.sessions._running[sid]
            await socket.send(frame("wait", 1, cid="a"))
            await socket.send(frame("x" * 2**21, 1, cid="a"))
            await until(lambda: session.stated.bytes_in > 2**21, "the window of the call is full")
            for _ in range(count):
                await socket.send(frame("x", 1, cid="a", note=text))
            failed = (await socket.next())["header"]
            assert failed["code"] == 10110, failed
        await idle(caller)

    async def test_a_mistake_while_data_are_passed_on_ends_their_session(
        self, caller: HttpCaller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def part(_self: ModelForm, _request: ServiceRequest) -> CallInput:
            raise RuntimeError("a mistake in Penstock")

        async with client(caller, self.MULTIPLEX) as socket:
            await begun(socket, cid="a")
            with monkeypatch.context() as patch:
                patch.setattr(ModelForm, "part", part)
                await socket.send(frame("two", 1, cid="a"))
                assert (await socket.failure())[0] == 11502
            await begun(socket, cid="a")
        await idle(caller)

    async def test_the_sessions_of_a_connection_are_limited(
        self, module_database_url: str, models_folder: Path
    ) -> None:
        async with (
            running_gateway(module_database_url, models_folder=models_folder, penstock_athena_sessions=2) as caller,
            client(caller, self.MULTIPLEX) as socket,
        ):
            await begun(socket, cid="a")
            await begun(socket, cid="b")
            await socket.send(frame("one", 0, cid="c"))
            assert (await socket.next())["header"]["cid"] == "c"

    async def test_an_idle_session_and_an_idle_connection_end(
        self, module_database_url: str, models_folder: Path
    ) -> None:
        async with running_gateway(
            module_database_url, models_folder=models_folder, penstock_athena_read_timeout=timedelta(seconds=0.3)
        ) as caller:
            await warm(caller)
            async with client(caller, self.MULTIPLEX) as socket:
                await socket.send(frame("one", 0, cid="a"))
                messages, closed = await socket.rest()
                last = messages[-1]["header"]
                assert (last["code"], last["message"], last["cid"]) == (10114, "time out", "a")
                assert closed == (1000, "time out")


async def test_pings_are_answered(caller: HttpCaller) -> None:
    async with client(caller, PATH, autoping=False) as socket:
        await socket.socket.ping(b"there?")
        received = await within(socket.socket.receive())
        assert (received.type, received.data) == (WSMsgType.PONG, b"there?")
