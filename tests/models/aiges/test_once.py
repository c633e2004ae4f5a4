"""Wrappers with single calls, through the host."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidInput, ModelFailed, ModelTimeout, ModelUnavailable
from penstock.models.replica import frames
from penstock.models.replica.runtime import Segment
from tests.support import wrappers
from tests.support.models import Models
from tests.support.wrappers import call, serve, texts

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
LIMIT = 60.0  # seconds that nothing here may take

OCR = """
    class UserRequest(object):
        img = ImageBodyField(key="img", path="test.png")
        lang = StringParamField(key="lang", enums=["en", "zh"], value="en", required=True)

    class UserResponse(object):
        accept1 = StringBodyField(key="boxes")

    class Wrapper(WrapperBase):
        serviceId = "ocr"
        version = "v1"
        requestCls = UserRequest()
        responseCls = UserResponse()

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.filelogger = None

        def wrapperInit(self, config: {}) -> int:
            self.config = config
            self.filelogger = getFileLogger()
            return 0

        def wrapperOnceExec(self, params: {}, reqData: DataListCls, usrTag: str = "", persId: int = 0) -> Response:
            self.filelogger.info("got reqdata , %s" % reqData.list)
            node = reqData.get("img")
            found = {"params": params, "bytes": node.len, "type": node.type, "config": self.config, "tag": usrTag}
            return answer("boxes", json.dumps(found).encode("utf-8"))

        def wrapperFini(cls) -> int:
            print("finished")
            return 0

        def wrapperError(cls, ret: int) -> str:
            return "the picture is empty" if ret == 100 else ""
"""


def body(method: str) -> str:
    """Return a wrapper whose wrapperOnceExec is this code."""
    lines = "\n".join(f"            {line}" for line in textwrap.dedent(method).strip().splitlines())
    return f"""
    class Wrapper(WrapperBase):
        def wrapperError(self, ret):
            return "the picture is empty" if ret == 100 else ""

        def wrapperOnceExec(self, params, reqData):
{lines}
    """


async def failure(models: Models, method: str, **stated: Any) -> ModelFailed:
    """Return the error of a call of a wrapper with this method."""
    deployment = await serve(models, "failing", body(method), **stated)
    with pytest.raises(ModelFailed) as caught:
        await asyncio.wait_for(texts(models, deployment, call(text="hello")), LIMIT)
    assert await texts(models, await serve(models, "other", body('return answer("r", b"fine")')), call()) == {
        "r": "fine"
    }
    return caught.value


async def test_a_published_wrapper_runs_unchanged(models: Models) -> None:
    """Bytes, parameters as text, the configuration and the tag reach it; its result comes back as text."""
    deployment = await serve(models, "ocr", OCR, options={"config": {"common.lic": 10, "quick": True}})
    value = {
        "header": {"sid": "ocr0001"},
        "parameter": {"lang": "en", "top": 16000, "boxes": {"format": "json"}},
        "payload": {"img": {"image": None, "encoding": "png", "status": 3}},
    }
    picture = Segment(PNG, "image/png", ("payload", "img", "image"))
    result = await models.host.call(deployment, msgspec.json.encode(value), [picture]).done
    payload = msgspec.json.decode(result.json)["payload"]
    assert payload["boxes"]["status"] == 3
    assert msgspec.json.decode(payload["boxes"]["text"]) == {
        "params": {"lang": "en", "top": "16000", "sid": "ocr0001"},
        "bytes": len(PNG),
        "type": 2,
        "config": {"common.lic": "10", "quick": "true"},
        "tag": "ocr0001",
    }


async def test_the_fields_make_the_schema(models: Models) -> None:
    """Calls are checked before they reach the wrapper."""
    deployment = await serve(models, "ocr", OCR)
    await deployment.load()
    with pytest.raises(InvalidInput) as caught:
        models.begin(deployment, {"parameter": {"lang": "de"}})
    assert [problem.field for problem in caught.value.problems] == ["parameter.lang"]
    assert deployment.schema is not None
    assert deployment.schema.input["x-athena"]["name"] == "ocr"


@pytest.mark.parametrize(
    ("aiges", "config"),
    [
        ('[wrapper]\n"common.lic" = "10"\nn = 5\n', {"common.lic": "10", "n": "5"}),
        ('[aiges]\nusrCfg = "user.toml"\n[wrapper]\nn = 5\n', {"engine.model": "tiny", "engine.n": "4"}),
    ],
)
async def test_the_configuration_comes_from_the_loaders_file(
    models: Models, aiges: str, config: dict[str, str]
) -> None:
    """[wrapper] of aiges.toml, or instead the file that usrCfg names, with its sections in the keys."""
    built = wrappers.model(models, "ocr", OCR)
    (built.folder / "aiges.toml").write_text(aiges)
    (built.folder / "user.toml").write_text('[engine]\nmodel = "tiny"\nn = 4\n')
    deployment = await models.host.add(built)
    value = call(params={"lang": "en"}) | {"payload": {"img": {"image": "data:image/png;base64,AA=="}}}
    found = msgspec.json.decode((await texts(models, deployment, value))["boxes"])
    assert found["config"] == config


OLDEST = """
    from iflags import flags
    logger = flags.logger
    model = None

    def wrapperInit(config: {}) -> int:
        global model
        model = config["model"]
        return 0

    def wrapperFini() -> int:
        logger.info("fini success", flush=True)
        return 0

    def wrapperOnceExec(usrTag: str, params: {}, reqData: [], respData: [], psrIds: [], psrCnt: int) -> int:
        if not reqData:
            return 10013
        value = model + reqData[0]["data"].decode() + str(reqData[0]["len"])
        respData.append({"key": "boxes", "data": value, "len": len(value), "status": 3, "type": 0})
        return 0

    def wrapperError(ret: int) -> str:
        return "reqData is empty" if ret == 10013 else "other error code"
"""


async def test_the_oldest_wrappers_are_functions(models: Models) -> None:
    deployment = await serve(models, "oldest", OLDEST, options={"config": {"model": "tiny "}})
    assert await texts(models, deployment, call(text="hello")) == {"boxes": "tiny hello5"}
    with pytest.raises(ModelFailed, match="reqData is empty;code=10013"):
        await texts(models, deployment, call())
    await models.host.stop()
    assert "wrapper: fini success" in [line.message for line in models.lines(deployment)]


async def test_pictures_come_back_as_media(models: Models) -> None:
    code = body('return answer("picture", b"\\x89PNG\\r\\n\\x1a\\n...", type=DataImage)')
    deployment = await serve(models, "draw", code)
    result = await models.begin(deployment, call()).done
    assert msgspec.json.decode(result.json) == {"payload": {"picture": {"image": None, "status": 3}}}
    (segment,) = result.segments
    assert (segment.media_type, segment.path) == ("image/png", ("payload", "picture", "image"))


@pytest.mark.parametrize(
    "signature",
    [
        "self, params, reqData",
        "cls, params: {}, reqData: DataListCls, usrTag: str = ''",
        "self, params, reqData, persId=0",
        "self, params, reqData, usrTag='', persId=0",
        "self, params, reqData, persId=0, usrTag=''",
        "self, params, req, *more",
        "self, params, reqData, **more",
        "self, *, params, reqData, tag=None",
    ],
)
async def test_methods_are_called_by_their_own_signatures(models: Models, signature: str) -> None:
    code = f"""
    class Wrapper(WrapperBase):
        def wrapperOnceExec({signature}):
            reqData = locals().get("reqData") or req
            return answer("r", (params["sid"] + reqData.get("text").get_data().decode()).encode())
    """
    deployment = await serve(models, "signed", code)
    assert await texts(models, deployment, call("sid-1", text=" hello")) == {"r": "sid-1 hello"}


async def test_results_may_be_filled_by_assignments(models: Models) -> None:
    """As with the original's C++ module, whose data and len can be assigned."""
    code = body("""
    r = Response()
    l = ResponseData()
    l.key = "boxes"
    l.status = 1
    l.len = 2
    l.data = b"cc"
    l.type = 0
    r.list = [l, l]
    return r
    """)
    deployment = await serve(models, "assigned", code)
    assert await texts(models, deployment, call()) == {"boxes": "cc"}


async def test_what_the_wrapper_prints_and_logs_is_in_the_models_log(models: Models) -> None:
    """Nothing is written into files: getFileLogger is a logger like any other."""
    code = body("""
    print("printed")
    log.warning("warned")
    getFileLogger(name="mine").info("noted")
    return answer("r", b"ok")
    """)
    deployment = await serve(models, "talking", code)
    await texts(models, deployment, call())
    lines = {line.message for line in models.lines(deployment)}
    assert {"printed", "root: warned", "mine: noted"} <= lines


async def test_several_calls_run_at_a_time(models: Models) -> None:
    """Each in a thread of its own, up to the manifest's concurrency."""
    code = """
    class Wrapper(WrapperBase):
        together = threading.Barrier(3, timeout=20)
        def wrapperOnceExec(self, params, reqData):
            self.together.wait()
            return answer("r", params["sid"].encode())
    """
    deployment = await serve(models, "together", code, concurrency=3)
    sids = ["a", "b", "c"]
    found = await asyncio.gather(*(texts(models, deployment, call(sid)) for sid in sids))
    assert [one["r"] for one in found] == sids


async def test_what_a_wrapper_counts_is_in_its_result(models: Models) -> None:
    code = """
    from aiges_embed import callback_metric, callback_trace
    class Wrapper(WrapperBase):
        def wrapperOnceExec(self, params, reqData, usrTag=""):
            assert callback_metric(usrTag, "business.total", 1) == 0
            callback_metric(usrTag, "business.total", 2)
            callback_trace(usrTag, "model", "tiny")
            return answer("r", b"ok")
    """
    deployment = await serve(models, "counting", code)
    result = await models.begin(deployment, call("sid-9")).done
    assert msgspec.json.decode(result.json)["usage"] == {"business.total": 3}
    assert "trace model: tiny" in [line.message for line in models.lines(deployment)]


# Failures reach the caller at once, with the right code. In the original each of these blocks its caller for 120
# seconds and takes the only place of the service for good.


async def test_an_exception_reaches_the_caller(models: Models) -> None:
    error = await failure(models, 'raise ValueError("no such picture")')
    assert error.engine_code == 30003
    assert "wrapperOnceExec: ValueError: no such picture" in str(error)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
async def test_an_exception_that_would_end_a_program_ends_only_the_call(models: Models, kind: str) -> None:
    error = await failure(models, f"raise {kind}(3)")
    assert error.engine_code == 30003
    assert f"wrapperOnceExec: {kind}: 3" in str(error)


async def test_nothing_is_an_error(models: Models) -> None:
    error = await failure(models, "x = 1")
    assert error.engine_code == 30003
    assert "wrapperOnceExec returned nothing" in str(error)


async def test_an_empty_response_is_an_error(models: Models) -> None:
    error = await failure(models, "r = Response()\nr.list = []\nreturn r")
    assert error.engine_code == 30003
    assert "without data" in str(error)


async def test_a_response_that_nothing_filled_is_an_error(models: Models) -> None:
    assert (await failure(models, "return Response()")).engine_code == 30003


async def test_an_error_number_reaches_the_caller_with_its_text(models: Models) -> None:
    """The original's plug-in drops it, and never calls wrapperError."""
    error = await failure(models, "return Response().response_err(100)")
    assert error.engine_code == 10909
    assert "the picture is empty;code=100" in str(error)


async def test_an_error_number_without_a_text_is_reported_as_a_number(models: Models) -> None:
    assert "code=7" in str(await failure(models, "return Response().response_err(7)"))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("return 5", "returned a int, which is not a Response"),
        ('return answer("r", [1, 2])', "must hold bytes, not a list"),
        ('return answer("", b"data")', "has no key"),
        ('r = answer("r", b"x")\nr.list[0].status = 9\nreturn r', "has the status 9"),
        ('r = answer("r", b"x")\nr.list[0].type = "text"\nreturn r', "has the type 'text'"),
        ('r = answer("r", b"x")\nr.error_code = "many"\nreturn r', "error_code must be a number"),
        ("r = Response()\nr.list = [5]\nreturn r", "has no data"),
    ],
)
async def test_what_callers_cannot_be_given_is_an_error(models: Models, method: str, words: str) -> None:
    error = await failure(models, method)
    assert error.engine_code in {30003, 10106}
    assert words in str(error)


async def test_large_results_reach_the_caller(models: Models) -> None:
    deployment = await serve(models, "large", body('return answer("r", bytes(40 * 2**20), type=DataAudio)'))
    result = await models.begin(deployment, call()).done
    assert [len(segment.data) for segment in result.segments] == [40 * 2**20]


async def test_a_result_that_no_frame_can_hold_is_an_error(models: Models) -> None:
    """The replica goes on."""
    code = body(f"""
    size = {frames.LARGEST + 1} if params.get("huge") else 1
    return answer("r", bytes(size), type=DataAudio)
    """)
    deployment = await serve(models, "huge", code)
    with pytest.raises(ModelFailed):
        await models.begin(deployment, call(params={"huge": "yes"})).done
    await models.begin(deployment, call()).done
    assert deployment.restarts == 0


async def test_an_exception_of_the_text_does_not_hide_the_number(models: Models) -> None:
    code = """
    class Wrapper(WrapperBase):
        def wrapperError(self, ret):
            raise KeyError(ret)
        def wrapperOnceExec(self, params, reqData):
            return Response().response_err(5)
    """
    deployment = await serve(models, "failing", code)
    with pytest.raises(ModelFailed, match="code=5"):
        await texts(models, deployment, call())


async def test_a_caller_that_leaves_interrupts_the_wrapper(models: Models) -> None:
    """Its place is free for the next call, in the same replica."""
    code = """
    class Wrapper(WrapperBase):
        def wrapperOnceExec(self, params, reqData):
            if params.get("quick"):
                return answer("r", str(os.getpid()).encode())
            print("began", flush=True)
            while True:
                pass
    """
    deployment = await serve(models, "endless", code)
    before = await texts(models, deployment, call(params={"quick": "yes"}))
    slow = models.begin(deployment, call())
    await asyncio.wait_for(_line(models, deployment, "began"), LIMIT)
    slow.close()
    assert await asyncio.wait_for(texts(models, deployment, call(params={"quick": "yes"})), LIMIT) == before


async def test_a_call_that_takes_too_long_ends(models: Models) -> None:
    deployment = await serve(models, "endless", body("while True:\n    pass"), timeout=0.5)
    with pytest.raises(ModelTimeout):
        await models.begin(deployment, call()).done


async def test_the_sid_of_a_running_call_cannot_be_used_again(models: Models) -> None:
    """What a wrapper sends by a sid must not reach another call."""
    code = """
    class Wrapper(WrapperBase):
        hold = threading.Event()
        def wrapperOnceExec(self, params, reqData):
            if reqData.get("go"):
                self.hold.set()
            else:
                print("began", flush=True)
                self.hold.wait(20)
            return answer("r", b"ok")
    """
    deployment = await serve(models, "twice", code, concurrency=2)
    first = models.begin(deployment, call("same"))
    await asyncio.wait_for(_line(models, deployment, "began"), LIMIT)
    with pytest.raises(InvalidInput) as caught:
        await models.begin(deployment, call("same")).done
    assert caught.value.problems[0].field == "header.sid"
    await texts(models, deployment, call("other", go="yes"))
    await first.done
    assert await texts(models, deployment, call("same")) == {"r": "ok"}


@pytest.mark.parametrize(
    ("method", "code", "words"),
    [
        ("return 7", 30002, "wrapperInit returned 7: the weights are missing"),
        ('raise RuntimeError("no memory")', 30001, "wrapperInit: RuntimeError: no memory"),
    ],
)
async def test_a_wrapper_that_cannot_start_says_why(models: Models, method: str, code: int, words: str) -> None:
    text = f"""
    class Wrapper(WrapperBase):
        def wrapperError(self, ret):
            return "the weights are missing"
        def wrapperInit(self, config):
            {method}
        def wrapperOnceExec(self, params, reqData):
            return answer("r", b"never")
    """
    with pytest.raises(ModelUnavailable, match=words):
        await (await serve(models, "broken", text)).load()


async def test_a_wrapper_that_cannot_be_imported_says_why(models: Models) -> None:
    with pytest.raises(ModelUnavailable, match="No module named 'nowhere'"):
        await (await serve(models, "broken", "import nowhere")).load()


async def test_a_method_that_needs_more_than_it_is_given_is_reported_at_the_start(models: Models) -> None:
    text = "class Wrapper(WrapperBase):\n    def wrapperOnceExec(self, params, reqData, a, b, c):\n        return a"
    with pytest.raises(ModelUnavailable, match="has a parameter 'c', which it is never given"):
        await (await serve(models, "broken", text)).load()


async def test_a_wrapper_without_methods_is_reported_at_the_start(models: Models) -> None:
    """Methods that only return None count as none, as published wrappers leave them."""
    text = "class Wrapper(WrapperBase):\n    def wrapperOnceExec(self, params, reqData):\n        return None"
    with pytest.raises(ModelUnavailable, match="the wrapper has neither wrapperOnceExec nor"):
        await (await serve(models, "broken", text)).load()


async def test_the_wrapper_is_finished_when_its_replica_ends(models: Models) -> None:
    deployment = await serve(models, "ocr", OCR)
    await deployment.load()
    await models.host.stop()
    assert "finished" in [line.message for line in models.lines(deployment)]


async def test_threads_of_a_wrapper_do_not_keep_its_replica(models: Models) -> None:
    """Published wrappers start threads that never end, and that are not daemons."""
    code = """
    class Wrapper(WrapperBase):
        def wrapperInit(self, config):
            threading.Thread(target=threading.Event().wait).start()
            return 0
        def wrapperOnceExec(self, params, reqData):
            return answer("r", str(os.getpid()).encode())
    """
    deployment = await serve(models, "threads", code)
    await texts(models, deployment, call())
    async with asyncio.timeout(LIMIT):
        await models.host.stop()


# Resources

RESOURCES = """
    class Wrapper(WrapperBase):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loaded = {}
        def wrapperLoadRes(self, reqData, resId):
            if reqData.list[0].data == b"bad":
                return 9
            self.loaded[resId] = reqData.list[0].data.decode()
            return 0
        def wrapperUnloadRes(self, resId):
            print("unloaded", resId)
            del self.loaded[resId]
            return 0
        def wrapperOnceExec(self, params, reqData, usrTag="", persId=0):
            return answer("r", self.loaded.get(persId, "none").encode())
"""


def with_resource(name: str, **more: Any) -> dict[str, Any]:
    return {"header": {"res_id": name} | more}


def loading(name: str, data: str) -> dict[str, Any]:
    return with_resource(name, op="AILoad") | {"payload": {"words": {"text": data}}}


async def test_resources_of_the_manifest_are_loaded_at_the_start(models: Models, tmp_path: Path) -> None:
    """Calls name them by header.res_id; when the replica ends they are unloaded."""
    built = wrappers.model(models, "words", RESOURCES)
    (built.folder / "words.txt").write_text("hello")
    options = {"resources": {"7": "words.txt"}}
    deployment = await models.host.add(models.model("words", "aiges", options, folder=built.folder))
    assert await texts(models, deployment, with_resource("7")) == {"r": "hello"}
    assert await texts(models, deployment, call()) == {"r": "none"}
    with pytest.raises(InvalidInput) as caught:
        await texts(models, deployment, with_resource("8"))
    assert caught.value.problems[0].field == "header.res_id"
    await models.host.stop()
    assert "unloaded 7" in [line.message for line in models.lines(deployment)]


async def test_calls_may_load_resources_where_the_manifest_allows_it(models: Models) -> None:
    deployment = await serve(models, "words", RESOURCES, options={"load_resources": True})
    await models.begin(deployment, loading("7", "hello")).done
    assert await texts(models, deployment, with_resource("7")) == {"r": "hello"}
    await models.begin(deployment, with_resource("7", op="AIUnLoad")).done
    with pytest.raises(InvalidInput):
        await texts(models, deployment, with_resource("7"))
    with pytest.raises(ModelFailed, match="code=9") as caught:
        await models.begin(deployment, loading("8", "bad")).done
    assert caught.value.engine_code == 10903


async def test_calls_load_no_resources_otherwise(models: Models) -> None:
    deployment = await serve(models, "words", RESOURCES)
    with pytest.raises(InvalidInput, match="load_resources"):
        await models.begin(deployment, loading("7", "hello")).done


async def _line(models: Models, deployment: Any, text: str) -> None:
    while text not in [line.message for line in models.lines(deployment)]:
        await asyncio.sleep(0.01)
