"""Wrappers with sessions, through the host."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput, ModelFailed, ModelTimeout
from penstock.models.checking import Checker
from penstock.models.host.deployment import Deployment
from penstock.models.host.sessions import LiveSession, SessionOver
from tests.support.models import Models, Recorder
from tests.support.waiting import until
from tests.support.wrappers import call, serve, texts

LIMIT = 60.0  # seconds that nothing here may take

# In the shape of the published examples of streams: a pool of handles, each with a thread; what the thread does with a
# request is the body of `infer`.
POOL = """
    class UserRequest(object):
        sound = StringBodyField(key="text", value=b"hello")

    class UserResponse(object):
        accept1 = StringBodyField(key="words")

    class MyReqDataThread(StreamHandleThread):
        def __init__(self, session_thread, in_q, out_q):
            super().__init__(session_thread, in_q, out_q)
            self.setDaemon(False)
            self.is_stopping = False

        def init_model(self, *args, **kwargs):
            self.inferred = 0

        def run(self):
            self.init_model(self.session_thread.handle)
            while not self.is_stopping:
                try:
                    req = self.in_q.get(timeout=5)
                    self.infer(req)
                except queue.Empty as e:
                    pass

        def reply(self, text, status):
            response = answer("words", text.encode(), status=status)
            return self.session_thread.callback_fn(response, self.session_thread.sid)

        def infer(self, req):
            {infer}

    import queue
    class Wrapper(WrapperBase):
        serviceId = "asr"
        requestCls = UserRequest()
        responseCls = UserResponse()

        def wrapperInit(self, config: {{}}) -> int:
            Wrapper.session_total = config.get("common.lic", 10)
            self.session.init_wrapper_config(config)
            self.session.init_handle_pool("thread", {handles}, MyReqDataThread)
            return 0

        def wrapperOnceExec(cls, params: {{}}, reqData: DataListCls) -> Response:
            return None

        def wrapperError(cls, ret):
            return "no handle" if ret == -1 else ""

        def wrapperCreate(self, params: {{}}, sid: str, persId: int = 0) -> SessionCreateResponse:
            s = SessionCreateResponse()
            handle = self.session.get_idle_handle()
            if not handle:
                s.error_code = -1
                s.handle = ""
                return s
            _session = self.session.get_session(handle=handle)
            _session.setup_sid(sid)
            _session.setup_params(params)
            _session.setup_callback_fn(callback)
            s.handle = handle
            s.error_code = 0
            return s

        def wrapperWrite(self, handle: str, req: DataListCls, sid: str) -> int:
            _session = self.session.get_session(handle=handle)
            _session.in_q.put(req)
            return 0

        def wrapperDestroy(self, handle: str) -> int:
            self.session.set_idle_session(handle)
            return 0

        def wrapperFini(cls) -> int:
            return 0
"""
ECHO = """
            node = req.list[0]
            self.reply(node.data.decode() + self.session_thread.params.get("mark", ""), node.status)
            if node.status == DataEnd:
                self.session_thread.reset()
"""


def pool(infer: str = ECHO, handles: int = 1) -> str:
    return POOL.format(infer=infer.strip(), handles=handles)


class Chunks(Recorder):
    """A listener whose caller reads every chunk as it comes."""

    session: LiveSession

    def chunk(self, json: bytes, segments: Any) -> None:
        super().chunk(json, segments)
        self.session.consume(self.session.unread)

    @property
    def words(self) -> list[tuple[str, int]]:
        """The text and status of each result."""
        return [
            (one["text"], one["status"]) for chunk in self.chunks for one in chunk["payload"].values() if "text" in one
        ]

    async def read(self, count: int) -> list[tuple[str, int]]:
        """Wait for that many chunks."""
        async with asyncio.timeout(LIMIT):
            while len(self.chunks) < count:
                assert not self.session.done.done(), self.session.done
                self.chunk_came.clear()
                await self.chunk_came.wait()
        return self.words


def begin(models: Models, model: Deployment, value: Any) -> tuple[LiveSession, Chunks]:
    chunks = Chunks()
    chunks.session = session = models.session(model, value, listener=chunks)
    session.done.add_done_callback(lambda _: chunks.chunk_came.set())
    return session, chunks


def part(text: str, status: int) -> dict[str, Any]:
    return {"payload": {"text": {"text": text, "status": status}}}


def first(text: str, status: int = 0, **params: str) -> dict[str, Any]:
    return {"parameter": params} | part(text, status)


async def send(session: LiveSession, text: str, status: int) -> None:
    await session.send(msgspec.json.encode(part(text, status)))


async def finished(session: LiveSession) -> None:
    """Wait for the end of a session, and close it."""
    try:
        await asyncio.wait_for(asyncio.shield(session.done), LIMIT)
    finally:
        session.close()


async def heard(models: Models, model: Deployment, name: str) -> None:
    """Run a whole session, and check that each of its parts came back to it."""
    session, chunks = begin(models, model, first(f"{name}.0", mark="!"))
    for number in range(1, 5):
        await send(session, f"{name}.{number}", 1)
    await send(session, f"{name}.5", 2)
    session.finish()
    await finished(session)
    assert chunks.words == [*((f"{name}.{n}!", 0 if n == 0 else 1) for n in range(5)), (f"{name}.5!", 2)]


async def test_a_published_stream_runs_unchanged(models: Models) -> None:
    """A result leaves when the wrapper has it, while parts still come."""
    model = await serve(models, "asr", pool())
    session, chunks = begin(models, model, first("one"))
    assert await chunks.read(1) == [("one", 0)]
    await send(session, "two", 1)
    assert await chunks.read(2) == [("one", 0), ("two", 1)]
    await send(session, "three", 2)
    session.finish()
    await finished(session)
    assert chunks.words[2:] == [("three", 2)]
    assert model.in_flight == 0


async def test_one_handle_serves_one_session_after_the_other(models: Models) -> None:
    """The next session finds the handle, however soon it comes."""
    model = await serve(models, "asr", pool())
    await asyncio.gather(*(heard(models, model, str(name)) for name in range(20)))


async def test_sessions_do_not_mix(models: Models) -> None:
    model = await serve(models, "asr", pool(handles=4), concurrency=4)
    await asyncio.gather(*(heard(models, model, str(name)) for name in range(40)))
    assert model.in_flight == 0


async def test_the_last_result_ends_a_session_whose_caller_would_send_more(models: Models) -> None:
    model = await serve(models, "asr", pool('self.reply("enough", DataEnd)\n            self.session_thread.reset()'))
    session, chunks = begin(models, model, first("one"))
    await finished(session)
    assert chunks.words == [("enough", 2)]
    with pytest.raises(SessionOver):
        await send(session, "two", 1)
    await heard_once(models, model)


async def heard_once(models: Models, model: Deployment) -> None:
    """Run one more session, which shows that its place and its handle are free."""
    session, chunks = begin(models, model, first("again", 3))
    session.finish()
    await finished(session)
    assert chunks.words


async def test_a_wrapper_that_only_has_sessions_takes_single_calls(models: Models) -> None:
    """wrapperOnceExec of the published streams does nothing; a call is then a session of one part."""
    infer = """
            for n in range(3):
                self.reply(f"{n}", (DataBegin, DataContinue, DataEnd)[n])
            self.session_thread.reset()
    """
    model = await serve(models, "asr", pool(infer))
    assert await texts(models, model, call(text="hello")) == {"words": "012"}
    assert await texts(models, model, call(text="hello")) == {"words": "012"}


async def test_results_are_read_where_the_wrapper_has_no_callback(models: Models) -> None:
    """wrapperRead returns empty data while there is nothing; only what it has is sent on."""
    code = """
    del callback
    class Wrapper(WrapperBase):
        def wrapperCreate(self, params, sid):
            self.results, self.asked = [], 0
            s = SessionCreateResponse()
            s.handle = "only"
            return s
        def wrapperWrite(self, handle, req, sid):
            node = req.get("text")
            self.results.append(answer("words", node.data.upper(), status=node.status))
            return 0
        def wrapperRead(self, handle, sid):
            self.asked += 1
            if self.asked % 3 or not self.results:
                return answer("words", b"", status=1)
            return self.results.pop(0)
    """
    model = await serve(models, "asr", code)
    session, chunks = begin(models, model, first("one"))
    await send(session, "two", 2)
    session.finish()
    await finished(session)
    assert chunks.words == [("ONE", 0), ("TWO", 2)]


async def test_in_real_time_results_are_read_after_each_part(models: Models) -> None:
    code = """
    class Wrapper(WrapperBase):
        def wrapperCreate(self, params, sid):
            s = SessionCreateResponse()
            s.handle = "only"
            return s
        def wrapperWrite(self, handle, req, sid):
            self.node = req.get("text")
            return 0
        def wrapperRead(self, handle, sid):
            node, self.node = self.node, None
            return answer("words", node.data if node else b"", status=node.status if node else 1)
    """
    model = await serve(models, "asr", code, options={"callbacks": False, "realtime": True})
    session, chunks = begin(models, model, first("one"))
    assert await chunks.read(1) == [("one", 0)]
    await send(session, "two", 2)
    session.finish()
    await finished(session)
    assert chunks.words == [("one", 0), ("two", 2)]


async def test_workers_of_a_fixed_pool(models: Models) -> None:
    """The other published pattern: a thread per session, and callback(response, handle, sid)."""
    code = """
    from aiges.callback import callback
    from aiges.concurrent.fixpool import FixedPool
    from aiges.worker import Worker, InferClass

    class Infer(InferClass):
        def __init__(self, params={}, tag="", sid=None):
            self.tag = tag
            self.sid = sid
        def setHandle(self, hdl):
            self.handle = hdl
        def predict(self, *args, **kwargs):
            req = kwargs.get('req').get("text")
            done = req.status in (DataEnd, DataOnce)
            callback(answer("words", req.data, status=req.status), self.tag, self.sid)
            return "", done

    class Wrapper(WrapperBase):
        call_type = 1
        def wrapperInit(self, config):
            self.pool = FixedPool()
            self.pool.set_capacity(int(config.get("common.lic", 1)))
            return 0
        def wrapperOnceExec(cls, params, reqData):
            return None
        def wrapperCreate(self, params: {}, sid: str, userTag: str = "") -> SessionCreateResponse:
            worker = Worker()
            worker.register_infer_class(Infer(params, userTag, sid))
            worker.register_infer_func(self.wrapperOnceExec)
            worker.register_callback(callback)
            ok, handle = self.pool.add(worker)
            sp = SessionCreateResponse()
            if not ok:
                sp.error_code = 40001
                return sp
            worker.setHandle(handle)
            worker.start()
            sp.handle = handle
            return sp
        def wrapperWrite(self, handle, req, sid):
            self.pool.get(handle).in_q.put(req)
            return 0
        def wrapperRead(self, handle, sid):
            return None
        def wrapperDestroy(self, handle):
            self.pool.remove(handle)
            return 0
    """
    model = await serve(models, "chat", code)
    for name in ("a", "b"):
        session, chunks = begin(models, model, first(name))
        await send(session, name * 2, 2)
        session.finish()
        await finished(session)
        assert chunks.words == [(name, 0), (name * 2, 2)]


async def test_handles_that_share_one_model(models: Models) -> None:
    """The newest pattern: requests of all sessions go through one queue; each keeps the sid of its session."""
    code = """
    import queue
    from aiges.stream import RequestPool, ModelProcess

    def infer(ctx, callback):
        node = ctx.data.get("text")
        callback(answer("words", node.data + ctx.params["mark"].encode(), status=node.status), ctx.sid)

    class Wrapper(WrapperBase):
        def wrapperInit(self, config):
            requests = queue.Queue()
            self.pool = RequestPool(requests, callback)
            self.process = ModelProcess(requests, self.pool.conns_map, callback)
            self.process.register_infer_func(infer)
            self.process.start()
            return 0
        def wrapperCreate(self, params, sid, persId=0, usrTag=""):
            s = SessionCreateResponse()
            handle = self.pool.get_idle_handle()
            if handle is None:
                s.error_code = -1
                return s
            self.pool.get_thread(handle).set_ctx(sid, params)
            s.handle = handle
            return s
        def wrapperWrite(self, handle, req, sid):
            self.pool.get_thread(handle).send_to_input_queue(sid, req)
            return 0
        def wrapperDestroy(self, handle):
            self.pool.set_idle_handle(handle)
            return 0
    """
    model = await serve(models, "shared", code, concurrency=4)
    await asyncio.gather(*(heard(models, model, str(name)) for name in range(20)))


# Asynchronous calls

ASYNC = """
    class Wrapper(WrapperBase):
        def wrapperError(self, ret):
            return "no picture" if ret == 1002 else ""
        def wrapperOnceExec(self, params, reqData):
            pass
        def wrapperOnceExecAsync(self, params, reqData, {third}, persId=0):
            {body}
"""


def asynchronous(body: str, third: str = "sid") -> str:
    return ASYNC.format(body=body.strip(), third=third)


@pytest.mark.parametrize(
    ("third", "reply"),
    [("sid", "callback(r, sid)"), ("usrTag='9527'", "callback(r, usrTag)"), ("sid", "callback(r, 'handle', sid)")],
)
async def test_an_asynchronous_call_returns_what_its_callback_brings(models: Models, third: str, reply: str) -> None:
    """From another thread, after the method has returned, in all spellings."""
    body = f"""
            r = answer("words", reqData.get("text").data)
            threading.Timer(0.01, lambda: {reply}).start()
            return 0
    """
    model = await serve(models, "async", asynchronous(body, third), concurrency=4)
    assert await asyncio.gather(*(texts(models, model, call(text=str(n))) for n in range(8))) == [
        {"words": str(n)} for n in range(8)
    ]


async def test_a_callback_may_come_before_the_method_returns(models: Models) -> None:
    model = await serve(models, "async", asynchronous('callback(answer("words", b"now"), sid)\n            return 0'))
    assert await texts(models, model, call()) == {"words": "now"}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("return 7", 10910, "code=7"),
        ("callback(Response().response_err(1002), sid)\n            return -1", 10910, "no picture;code=1002"),
        ("callback(Response().response_err(1002), sid)\n            return 0", 10910, "no picture;code=1002"),
        ('raise ValueError("no")', 30003, "wrapperOnceExecAsync: ValueError: no"),
        ("callback(None, sid)\n            return 0", 30003, "the callback returned nothing"),
        ('callback(answer("r", 5.5 and [1]), sid)\n            return 0', 10106, "must hold bytes, not a list"),
        ('return "well"', 30003, "wrapperOnceExecAsync must be a number, not a str"),
    ],
)
async def test_failures_of_asynchronous_calls(models: Models, body: str, code: int, words: str) -> None:
    model = await serve(models, "async", asynchronous(body))
    with pytest.raises(ModelFailed) as caught:
        await asyncio.wait_for(texts(models, model, call()), LIMIT)
    assert caught.value.engine_code == code
    assert words in str(caught.value)
    assert model.in_flight == 0


async def test_a_call_that_is_never_answered_times_out_and_its_place_returns(models: Models) -> None:
    body = """
            if reqData.get("text").data == b"answer":
                callback(answer("words", b"yes"), sid)
            return 0
    """
    model = await serve(models, "async", asynchronous(body), timeout=0.5)
    with pytest.raises(ModelTimeout):
        await texts(models, model, call(text="never"))
    assert await texts(models, model, call(text="answer")) == {"words": "yes"}
    assert model.restarts == 0


async def test_what_comes_after_the_result_is_dropped(models: Models) -> None:
    """A second callback, and one long after the end, reach no other call; the wrapper sees that by the -1."""
    body = """
            late = getattr(self, "late", None)
            self.late = sid
            if late:
                assert callback(answer("words", b"late"), late) == -1
            assert callback(answer("words", reqData.get("text").data), sid) == 0
            callback(answer("words", b"twice"), sid)
            return 0
    """
    model = await serve(models, "async", asynchronous(body), concurrency=2)
    for n in range(5):
        assert await texts(models, model, call(text=str(n))) == {"words": str(n)}


# Hostile sessions. A later one shows each time that the place and the handle came back.


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("s.handle = handle\n            s.error_code = 0", "raise KeyError('a')", 30003, "wrapperCreate: KeyError"),
        ("s.error_code = 0\n            return s", "s.error_code = 7; return s", 10905, "code=7"),
        ("s.error_code = 0\n            return s", "return None", 10905, "wrapperCreate returned nothing"),
        ("s.error_code = 0\n            return s", "return -1", 10905, "no handle;code=-1"),
        ("s.error_code = 0\n            return s", "s.handle = 5; return s", 10905, "without a handle"),
        ("_session.in_q.put(req)", "raise KeyError(handle)", 30003, "wrapperWrite: KeyError"),
        ("_session.in_q.put(req)\n            return 0", "return 9", 10907, "code=9"),
        ("_session.in_q.put(req)\n            return 0", "return 'x'", 30003, "wrapperWrite must be a number"),
    ],
)  # fmt: skip
async def test_failures_of_a_session(models: Models, old: str, new: str, code: int, words: str) -> None:
    """The first session fails; with the same wrapper, and the only handle, the second one does not."""
    good = pool()
    assert old in good
    lines = [f"if params.get('fail') or getattr(self, 'fail', False):\n                {new}", old]
    changed = good.replace(old, "\n            ".join(lines))
    changed = changed.replace(
        "_session.setup_params(params)", "_session.setup_params(params)\n            self.fail = params.get('fail')"
    ).replace("handle: str, req: DataListCls, sid: str", "handle: str, req: DataListCls, sid: str, params={}")
    model = await serve(models, "asr", changed)
    session, _ = begin(models, model, first("one", fail="yes"))
    with pytest.raises(ModelFailed) as caught:
        await finished(session)
    assert caught.value.engine_code == code
    assert words in str(caught.value)
    await heard_once(models, model)
    assert model.restarts == 0


@pytest.mark.parametrize(
    ("infer", "words"),
    [
        ('raise RuntimeError("out of memory")', "a thread of the wrapper: RuntimeError: out of memory"),
        ("raise SystemExit", "a thread of the wrapper: SystemExit"),
        ("self.is_stopping = True", "a thread of the wrapper has ended before its session"),
    ],
)
async def test_a_thread_that_ends_ends_its_session_at_once(models: Models, infer: str, words: str) -> None:
    """The next session gets a new thread. In the original it waits forever, and so do all later ones."""
    body = f"""
            if req.list[0].data == b"fail":
                {infer}
                return
            self.reply("fine", DataEnd)
            self.session_thread.reset()
    """
    model = await serve(models, "asr", pool(body))
    session, _ = begin(models, model, first("fail"))
    with pytest.raises(ModelFailed, match=words):
        await finished(session)
    await heard_once(models, model)
    assert model.restarts == 0


async def test_a_session_without_results_times_out(models: Models) -> None:
    body = """
            if req.list[0].data == b"never":
                return
            self.reply("fine", DataEnd)
            self.session_thread.reset()
    """
    model = await serve(models, "asr", pool(body), timeout=0.5)
    session, _ = begin(models, model, first("never", 3))
    session.finish()
    with pytest.raises(ModelTimeout):
        await finished(session)
    await heard_once(models, model)
    assert model.restarts == 0


async def test_a_caller_that_leaves_gets_nothing_and_leaves_nothing(models: Models) -> None:
    """Its handle is given to the next session only when the thread is done with it: no result reaches another session,
    though the thread sends it by the sid that the handle has by then."""
    body = """
            text = req.list[0].data
            if text == b"slow":
                print("began", flush=True)
                while not os.path.exists("go"):
                    pass
                self.reply("late", DataEnd)
                return
            self.reply(text.decode(), DataEnd)
            self.session_thread.reset()
    """
    creating = 'print("creating", flush=True)\n            handle = self.session.get_idle_handle()'
    code = pool(body).replace("handle = self.session.get_idle_handle()", creating)
    model = await serve(models, "asr", code)

    def lines() -> list[str]:
        return [line.message for line in models.lines(model)]

    session, _ = begin(models, model, first("slow"))
    await until(lambda: "began" in lines(), "the thread's line")
    session.close()
    other, chunks = begin(models, model, first("next", 3))
    other.finish()
    await until(lambda: lines().count("creating") == 2, "the next session asks for a handle")
    (model.model.folder / "go").touch()
    await finished(other)
    assert chunks.words == [("next", 2)]


async def test_a_handle_is_not_given_away_before_its_session_is_destroyed(models: Models) -> None:
    """The thread gives it back with the last result; wrapperDestroy, which comes later, gives it back again."""
    code = (
        pool()
        .replace(
            "self.session.set_idle_session(handle)",
            """self.destroying = True
            print("destroying", flush=True)
            while not os.path.exists("go"):
                pass
            self.session.set_idle_session(handle)
            self.destroying = False""",
        )
        .replace("s.error_code = 0", "s.error_code = 77 if getattr(self, 'destroying', False) else 0")
        .replace("handle = self.session.get", "print('creating', flush=True)\n            handle = self.session.get", 1)
    )
    model = await serve(models, "asr", code, concurrency=2)

    def lines() -> list[str]:
        return [line.message for line in models.lines(model)]

    session, _ = begin(models, model, first("one", 2))
    session.finish()
    await until(lambda: "destroying" in lines(), "the first session is destroyed")
    other, chunks = begin(models, model, first("two", 2))
    other.finish()
    await until(lambda: lines().count("creating") == 2, "the second session asks for a handle")
    (model.model.folder / "go").touch()
    await finished(session)
    await finished(other)
    assert chunks.words == [("two", 2)]


async def test_a_handle_that_is_used_again_at_once_names_the_new_session(models: Models) -> None:
    """A wrapper with handles of its own may reuse one before the last steps of wrapperDestroy."""
    code = """
    class Wrapper(WrapperBase):
        def wrapperCreate(self, params, sid):
            s = SessionCreateResponse()
            s.handle = "only"
            return s
        def wrapperWrite(self, handle, req, sid):
            node = req.get("text")
            return callback(answer("words", node.data, status=node.status), handle)
        def wrapperDestroy(self, handle):
            print("destroying", flush=True)
            while not os.path.exists("go"):
                pass
            return 0
    """
    model = await serve(models, "own", code, concurrency=2)
    session, _ = begin(models, model, first("one", 3))
    session.finish()
    await until(lambda: "destroying" in [line.message for line in models.lines(model)], "the first one's end")
    other, chunks = begin(models, model, first("two"))
    try:
        assert await chunks.read(1) == [("two", 0)]
    finally:
        (model.model.folder / "go").touch()
    await finished(session)
    await send(other, "end", 2)
    other.finish()
    await finished(other)
    assert chunks.words == [("two", 0), ("end", 2)]


async def test_a_session_is_refused_where_all_handles_are_taken(models: Models) -> None:
    """By the wrapper's own number, with its text."""
    model = await serve(models, "asr", pool(), concurrency=2)
    session, chunks = begin(models, model, first("one"))
    await chunks.read(1)
    other, _ = begin(models, model, first("two"))
    with pytest.raises(ModelFailed, match="no handle;code=-1") as caught:
        await finished(other)
    assert caught.value.engine_code == 10905
    await send(session, "end", 2)
    session.finish()
    await finished(session)


async def test_a_slow_thread_slows_its_sender(models: Models) -> None:
    """Parts that a wrapper has not taken wait at their sender: at most so many bytes are in the replica."""
    body = """
            while not os.path.exists("go"):
                pass
            node = req.list[0]
            if node.status == DataEnd:
                self.reply("done", DataEnd)
                self.session_thread.reset()
    """
    model = await serve(models, "asr", pool(body), timeout=60)
    session, chunks = begin(models, model, first("x"))
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(100):
            await send(session, "x" * 2**20, 1)
            sent += 1
        await send(session, "x", 2)
        session.finish()

    sending = asyncio.create_task(flood())
    await until(lambda: sent > 10, "parts")
    before = -1
    while before != sent:  # until it rests
        before = sent
        await asyncio.sleep(0.3)
    assert sent < 60
    (model.model.folder / "go").touch()
    await asyncio.wait_for(sending, LIMIT)
    await finished(session)
    assert chunks.words == [("done", 2)]


async def test_parts_are_checked_by_the_wrappers_fields(models: Models) -> None:
    """A part may omit what the first one stated; limits hold for each."""
    model = await serve(models, "asr", pool())
    await model.load()
    assert model.schema is not None
    assert model.schema.session is not None
    parts = Checker(model.schema.session.part)
    parts.check(part("one", 2))
    with pytest.raises(InvalidInput):
        parts.check({"payload": {"text": {"image": "no"}}})


async def test_sessions_can_be_switched_off(models: Models) -> None:
    model = await serve(
        models, "asr", pool().replace("return None", "return answer('r', b'x')"), options={"sessions": False}
    )
    await model.load()
    assert model.schema is not None
    assert model.schema.session is None
