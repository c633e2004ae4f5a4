"""Engines with the C interface: the examples in C and C++, and libraries that break the interface."""

from __future__ import annotations

import array
import asyncio
import ctypes
import gc
import json
import math
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelCrashed, ModelFailed
from penstock.failures import CallFailed, Category
from penstock.models import manifest
from penstock.models.replica import frames
from penstock.models.replica.aiges import library, results
from penstock.models.replica.aiges.c_interface import FUNCTIONS, HEADERS, Interface
from penstock.models.replica.aiges.calls import Item
from penstock.models.replica.aiges.native_engine import BlockingEngine, EventedEngine, create
from penstock.models.replica.runtime import Call, Output, Schema, Segment, Spec
from penstock.models.replica.runtimes.aiges_native import AigesNativeRuntime
from penstock.models.replica.sessions import Part, Session
from tests.support.models import Models
from tests.support.runtimes import CollectingWire, call_with, read

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "athena"
INTERFACE = Interface()
LIMIT = 60.0  # seconds that nothing here may take

# The source of an engine; a test supplies the bodies of some functions.
ENGINE = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "wrapper.h"
static wrapperMeterCustom meter;
static wrapperMetrics metrics;
static wrapperTraceLog trace;
static wrapperCallback kept_callback;
static char kept_tag[64];
static int freed, destroyed, begun, loaded[100];
static struct DataList one = {"out", "text", 4, DataText, DataOnce, NULL, NULL};
WrapperAPI int countLoaded(void) { int count = 0; for (int n = 0; n < 100; n++) count += loaded[n]; return count; }
WrapperAPI int countFreed(void) { return freed; }
WrapperAPI int countDestroyed(void) { return destroyed; }
WrapperAPI void countBegin(void) { __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST); }
WrapperAPI int countBegun(void) { return __atomic_load_n(&begun, __ATOMIC_SEQ_CST); }
WrapperAPI int callBackLate(void) { return kept_callback(kept_tag, &one, 0); }
WrapperAPI int meterLate(void) { return meter(kept_tag, "late", 1); }
WrapperAPI int wrapperSetCtrl(CtrlType type, void *func) {
    if (type == CTMeterCustom) meter = (wrapperMeterCustom)func;
    if (type == CTMetricsLog) metrics = (wrapperMetrics)func;
    if (type == CTTraceLog) trace = (wrapperTraceLog)func;
    return 0;
}
WrapperAPI int wrapperInit(pConfig cfg) { (void)cfg; @INIT@ return 0; }
WrapperAPI int wrapperFini(void) { return 0; }
WrapperAPI const char *wrapperError(int errNum) { return errNum == 77 ? "seventy-seven" : NULL; }
WrapperAPI const char *wrapperVersion(void) { return "0.9"; }
WrapperAPI int wrapperLoadRes(pDataList perData, unsigned int resId) { (void)perData; (void)resId; @LOAD@ return 0; }
WrapperAPI int wrapperUnloadRes(unsigned int resId) { (void)resId; @UNLOAD@ return 0; }
WrapperAPI const void *wrapperCreate(const char *usrTag, pParamList params, wrapperCallback cb, unsigned int psrIds[],
                                     int psrCnt, int *errNum) {
    (void)params; (void)psrIds; (void)psrCnt; (void)errNum;
    kept_callback = cb;
    strcpy(kept_tag, usrTag);
    __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
    @CREATE@
    return "handle";
}
WrapperAPI int wrapperWrite(const void *handle, pDataList data) { (void)handle; (void)data; @WRITE@ return 0; }
WrapperAPI int wrapperRead(const void *handle, pDataList *result) { (void)handle; (void)result; @READ@ return 0; }
WrapperAPI int wrapperDestroy(const void *handle) { (void)handle; destroyed++; @DESTROY@ return 0; }
WrapperAPI int wrapperExec(const char *usrTag, pParamList params, pDataList data, pDataList *result,
                           unsigned int psrIds[], int psrCnt) {
    (void)usrTag; (void)params; (void)data; (void)result; (void)psrIds; (void)psrCnt; @EXEC@ return 0;
}
WrapperAPI int wrapperExecFree(const char *usrTag, pDataList *result) {
    (void)usrTag; (void)result; freed++; @FREE@ return 0;
}
WrapperAPI int wrapperExecAsync(const char *usrTag, pParamList params, pDataList data, wrapperCallback callback,
                                int timeout, unsigned int psrIds[], int psrCnt) {
    (void)usrTag; (void)params; (void)data; (void)timeout; (void)psrIds; (void)psrCnt;
    kept_callback = callback;
    strcpy(kept_tag, usrTag);
    __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
    @ASYNC@
    return 0;
}
WrapperAPI const char *wrapperDebugInfo(const void *handle) { (void)handle; @DEBUG@ return NULL; }
"""


class SessionWire(CollectingWire):
    """A wire that also collects what a session has taken, and reports each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_bytes = 0
        self.came = asyncio.Event()

    def taken(self, session: Session, size: int) -> None:
        self.taken_bytes += size

    def chunk(self, call: Call, output: Output) -> None:
        super().chunk(call, output)
        self.came.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            while len(self.chunks) < count:
                await self.came.wait()
                self.came.clear()


def text(value: str, status: int = 3, **more: Any) -> dict[str, Any]:
    return {"payload": {"text": {"text": value, "status": status}}} | more


def session_with(wire: SessionWire, first: Any, *segments: Segment, window: int = 0) -> Session:
    return Session(
        1, msgspec.json.encode(first), segments, request_id="request-1", wire=wire, window=window, part_window=2**20
    )


def give(session: Session, *parts: Any, last: bool = True) -> None:
    for part in parts:
        session.deliver(Part(msgspec.json.encode(part)), 100)
    if last:
        session.end_parts()


@asynccontextmanager
async def loaded(
    folder: Path, *, schema: Schema | None = None, concurrency: int = 1, **options: Any
) -> AsyncIterator[EventedEngine]:
    assert not AigesNativeRuntime.check(options, folder)
    spec = Spec(
        name="m", version="1", folder=folder, options=options, schema=schema or Schema(), concurrency=concurrency
    )
    async with asyncio.timeout(LIMIT):
        runtime = EventedEngine(spec)
        runtime.describe()
        await runtime.load()
        yield runtime
        await runtime.unload()


def engine(folder: Path, *, without: Sequence[str] = (), **bodies: str) -> Path:
    """Compile an engine from the bodies of its functions."""
    source = ENGINE
    for name in ("INIT", "CREATE", "WRITE", "READ", "EXEC", "FREE", "ASYNC", "DEBUG", "DESTROY", "LOAD", "UNLOAD"):
        source = source.replace(f"@{name}@", bodies.get(name.lower(), ""))
    for name in without:
        source = source.replace(name, f"not_{name}")
    (folder / "engine.c").write_text(source)
    subprocess.run(
        ["cc", "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", f"-I{HEADERS}", "-fPIC", "-shared",
         "-o", "libwrapper.so", "engine.c", "-lpthread"],
        cwd=folder, check=True, timeout=LIMIT,
    )  # fmt: skip
    return folder


def compiled(example: str, folder: Path) -> Path:
    shutil.copytree(EXAMPLES / example, folder / example, ignore=shutil.ignore_patterns("*.so"))
    strict = [f"AIGES_INCLUDE={HEADERS}", "CFLAGS=-O2 -Wall -Wextra -Werror", "CXXFLAGS=-O2 -Wall -Wextra -Werror"]
    subprocess.run(["make", "-s", "-C", str(folder / example), *strict], check=True, timeout=120)
    return folder / example


@pytest.fixture(scope="module")
def upper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C example, compiled."""
    return compiled("upper-c", tmp_path_factory.mktemp("upper"))


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C++ example, compiled."""
    if shutil.which("c++") is None:
        pytest.skip("this machine has no C++ compiler")
    return compiled("levels-cpp", tmp_path_factory.mktemp("levels"))


def number(folder: Path, function: str, *arguments: int) -> int:
    """Call a function that only tests use, of a library that is loaded already."""
    return int(getattr(ctypes.CDLL(str(folder / "libwrapper.so")), function)(*arguments))


# Calls


async def test_a_call_returns_the_results_of_the_c_example(upper: Path) -> None:
    wire = CollectingWire()
    async with loaded(upper, config={"suffix": "!"}) as runtime:
        output = await runtime.predict(call_with(wire, text("hällo, world")))
        assert read(output) == {"payload": {"upper": {"text": "HäLLO, WORLD!", "status": 3}}, "usage": {"letters": 9}}
        assert ("info", "usage letters=9") in wire.lines
        assert ("info", "read: text") in wire.lines
        assert number(upper, "upperBlocks") == 0


async def test_a_call_with_callbacks_gets_its_result_from_a_thread_of_the_engine(upper: Path) -> None:
    async with loaded(upper, callbacks=True) as runtime:
        output = await runtime.predict(call_with(CollectingWire(), text("hello")))
        assert read(output) == {"payload": {"upper": {"text": "HELLO", "status": 3}}, "usage": {"letters": 5}}
    assert await settled(lambda: number(upper, "upperBlocks") == 0)


async def settled(condition: Callable[[], bool]) -> bool:
    """Wait until what threads of the engine do is over."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.001)
    return True


@pytest.mark.parametrize("callbacks", [True, False])
async def test_an_error_number_reaches_the_caller_with_the_engines_words(upper: Path, *, callbacks: bool) -> None:
    async with loaded(upper, callbacks=callbacks) as runtime:
        with pytest.raises(CallFailed, match=r"^there is no text;code=4001$") as failed:
            await runtime.predict(call_with(CollectingWire(), {"payload": {"other": {"text": "x"}}}))
        assert failed.value.category is Category.INTERNAL
        assert failed.value.code == 10909
        assert number(upper, "upperBlocks") == 0


@pytest.mark.parametrize("callbacks", [True, False])
async def test_many_calls_run_at_a_time_and_get_their_own_results(upper: Path, *, callbacks: bool) -> None:
    async with loaded(upper, concurrency=8, callbacks=callbacks) as runtime:
        calls = [runtime.predict(call_with(CollectingWire(), text(f"number {index}"))) for index in range(300)]
        for index, output in enumerate(await asyncio.gather(*calls)):
            assert read(output)["payload"]["upper"]["text"] == f"NUMBER {index}"
    assert await settled(lambda: number(upper, "upperBlocks") == 0)


async def test_resources_are_loaded_and_named_by_calls(upper: Path) -> None:
    (upper / "words.txt").write_text("iPhone\nvan")
    async with loaded(upper, resources={"names": "words.txt"}) as runtime:
        given = text("ludwig van iPhone")
        assert read(await runtime.predict(call_with(CollectingWire(), given)))["payload"]["upper"]["text"] == (
            "LUDWIG VAN IPHONE"
        )
        output = await runtime.predict(call_with(CollectingWire(), given | {"header": {"res_id": "names"}}))
        assert read(output)["payload"]["upper"]["text"] == "LUDWIG van iPhone"
        with pytest.raises(CallFailed, match=r"not loaded; there are: names") as refused:
            await runtime.predict(call_with(CollectingWire(), given | {"header": {"res_id": "names;others"}}))
        assert (refused.value.category, refused.value.field) == (Category.BAD_INPUT, "header.res_id")
        assert number(upper, "upperBlocks") == 1
    assert number(upper, "upperBlocks") == 0


async def test_calls_load_and_unload_resources_where_the_manifest_allows_it(upper: Path) -> None:
    def operation(op: str, name: str, **more: Any) -> Call:
        return call_with(CollectingWire(), {"header": {"op": op, "res_id": name}} | more)

    async def said(name: str) -> Any:
        given = text("one two") | {"header": {"res_id": name}}
        return read(await runtime.predict(call_with(CollectingWire(), given)))["payload"]["upper"]["text"]

    words = {"payload": {"words": {"text": "one"}}}
    async with loaded(upper, load_resources=True) as runtime:
        assert read(await runtime.predict(operation("AILoad", "mine", **words))) == {"payload": {}}
        assert await said("mine") == "one TWO"
        await runtime.predict(operation("AILoad", "mine", payload={"words": {"text": "two"}}))
        assert await said("mine") == "ONE two"
        for number_of in range(7):
            await runtime.predict(operation("AILoad", f"more-{number_of}", **words))
        with pytest.raises(CallFailed, match="there are too many resources;code=4002") as failed:
            await runtime.predict(operation("AILoad", "one too many", **words))
        assert failed.value.code == 10903
        await runtime.predict(operation("AIUnLoad", "mine"))
        for call in (operation("AIUnLoad", "mine"), operation("AILoad", ""), operation("AILoad", "x;y", **words)):
            with pytest.raises(CallFailed) as refused:
                await runtime.predict(call)
            assert (refused.value.category, refused.value.field) == (Category.BAD_INPUT, "header.res_id")
        with pytest.raises(CallFailed, match="must hold one data object"):
            await runtime.predict(operation("AILoad", "x"))
    assert number(upper, "upperBlocks") == 0
    async with loaded(upper) as runtime:
        with pytest.raises(CallFailed, match="load_resources = true"):
            await runtime.predict(operation("AILoad", "mine", **words))


# The resources of this engine are its characters: it knows which numbers are loaded, and refuses to load "bad".
RESOURCES = {
    "load": "if (*(char *)perData->data == 'b') return 77; loaded[resId] = 1;",
    "unload": "loaded[resId] = 0;",
    "exec": """
        int first = loaded[psrIds[0]];
        __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 2) usleep(1000);
        one.data = first && loaded[psrIds[0]] ? "kept" : "gone";
        *result = &one;""",
}


def resource_engine(folder: Path) -> Path:
    return engine(folder, **RESOURCES)


def loading(content: str) -> Call:
    value = {"header": {"op": "AILoad", "res_id": "mine"}, "payload": {"words": {"text": content}}}
    return call_with(CollectingWire(), value)


async def test_a_resource_stays_loaded_where_its_replacement_fails(tmp_path: Path) -> None:
    async with loaded(resource_engine(tmp_path), load_resources=True) as runtime:
        await runtime.predict(loading("good"))
        with pytest.raises(CallFailed, match="seventy-seven"):
            await runtime.predict(loading("bad"))
        number(tmp_path, "countBegin")
        output = await runtime.predict(call_with(CollectingWire(), {"header": {"res_id": "mine"}}))
        assert read(output)["payload"]["out"]["text"] == "kept"


@pytest.mark.parametrize("then", ["AILoad", "AIUnLoad"])
async def test_a_resource_stays_loaded_while_a_call_uses_it(tmp_path: Path, then: str) -> None:
    """And no longer."""
    async with loaded(resource_engine(tmp_path), load_resources=True, concurrency=2) as runtime:
        await runtime.predict(loading("good"))
        using = asyncio.create_task(runtime.predict(call_with(CollectingWire(), {"header": {"res_id": "mine"}})))
        await settled(lambda: number(tmp_path, "countBegun") == 1)
        unload = call_with(CollectingWire(), {"header": {"op": "AIUnLoad", "res_id": "mine"}})
        await runtime.predict(loading("other") if then == "AILoad" else unload)
        number(tmp_path, "countBegin")
        assert read(await using)["payload"]["out"]["text"] == "kept"
        assert number(tmp_path, "countLoaded") == (1 if then == "AILoad" else 0)
    assert number(tmp_path, "countLoaded") == 0


# Sessions


@pytest.mark.parametrize("options", [{"callbacks": True}, {"realtime": True}])
async def test_a_session_gets_results_while_it_sends_parts(upper: Path, options: dict[str, Any]) -> None:
    wire = SessionWire()
    async with loaded(upper, sessions=True, **options) as runtime:
        session = session_with(wire, text("one", 0))
        running = asyncio.create_task(runtime.session(session))
        await wire.wait_for(1)
        give(session, text("two", 1), last=False)
        await wire.wait_for(2)
        give(session, text("three", 2))
        await running
        assert [one["payload"]["upper"] for one in wire.values] == [
            {"text": "ONE", "status": 0},
            {"text": "TWO", "status": 1},
            {"text": "THREE", "status": 2},
        ]
        assert [one.get("usage") for one in wire.values] == [None, None, {"letters": 11}]
        assert ("debug", "wrapperDebugInfo: 11 letters") in wire.lines
        assert number(upper, "upperBlocks") == 0


async def test_a_session_without_callbacks_reads_its_results_at_the_end(upper: Path) -> None:
    wire = SessionWire()
    async with loaded(upper, sessions=True) as runtime:
        session = session_with(wire, text("one", 0))
        give(session, text("two", 1), text("three", 2))
        await runtime.session(session)
        (chunk,) = wire.values
        assert chunk["payload"]["upper"] == {"text": "THREE", "status": 2}  # of one key the last
        assert number(upper, "upperBlocks") == 0


@pytest.mark.parametrize("callbacks", [True, False])
async def test_a_session_whose_caller_leaves_is_destroyed(upper: Path, *, callbacks: bool) -> None:
    wire = SessionWire()
    async with loaded(upper, sessions=True, callbacks=callbacks, realtime=True) as runtime:
        session = session_with(wire, text("one", 0))
        running = asyncio.create_task(runtime.session(session))
        await wire.wait_for(1)
        assert number(upper, "upperBlocks") > 0
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert number(upper, "upperBlocks") == 0


@pytest.mark.parametrize("callbacks", [True, False])
async def test_a_part_that_the_engine_refuses_ends_the_session(upper: Path, *, callbacks: bool) -> None:
    async with loaded(upper, sessions=True, callbacks=callbacks) as runtime:
        session = session_with(SessionWire(), text("one", 0))
        give(session, {"payload": {"other": {"text": "x"}}}, last=False)
        with pytest.raises(CallFailed, match="there is no text;code=4001") as failed:
            await runtime.session(session)
        assert failed.value.code == 10907
        assert number(upper, "upperBlocks") == 0


@pytest.mark.parametrize("callbacks", [True, False])
async def test_sessions_at_a_time_do_not_mix(upper: Path, *, callbacks: bool) -> None:
    async def one(name: str) -> None:
        wire = SessionWire()
        session = session_with(wire, text(f"{name} 0", 0))
        running = asyncio.create_task(runtime.session(session))
        for index in range(1, 20):
            await wire.wait_for(index)
            give(session, text(f"{name} {index}", 2 if index == 19 else 1), last=index == 19)
        await running
        assert [value["payload"]["upper"]["text"] for value in wire.values] == [
            f"{name} {index}".upper() for index in range(20)
        ]

    async with loaded(upper, sessions=True, concurrency=20, callbacks=callbacks, realtime=True) as runtime:
        await asyncio.gather(*(one(f"session {chr(97 + index)}") for index in range(20)))
        assert number(upper, "upperBlocks") == 0


# The C++ example


def sound(count: int, height: int) -> bytes:
    return array.array("h", [height if index % 2 else -height for index in range(count)]).tobytes()


def audio(data: bytes, status: int = 3) -> tuple[dict[str, Any], Segment]:
    return {"payload": {"audio": {"audio": None, "status": status}}}, Segment(data, path=("payload", "audio", "audio"))


@pytest.mark.parametrize("callbacks", [True, False])
async def test_the_cpp_example_measures_a_sound(levels: Path, *, callbacks: bool) -> None:
    async with loaded(levels, callbacks=callbacks) as runtime:
        value, segment = audio(sound(1000, 300))
        output = await runtime.predict(call_with(CollectingWire(), value, segment))
        result = read(output)["payload"]["levels"]
        assert json.loads(result["text"]) == {"samples": 1000, "peak": 300, "rms": 300.0}
        assert (result["format"], result["status"]) == ("json", 3)
        value, segment = audio(b"odd")
        with pytest.raises(CallFailed, match="audio must be samples of 16 bits;code=5002"):
            await runtime.predict(call_with(CollectingWire(), value, segment))
    assert number(levels, "levelsAlive") == 0


async def test_a_session_of_the_cpp_example_hears_all_parts(levels: Path) -> None:
    wire = SessionWire()
    async with loaded(levels, callbacks=True, sessions=True) as runtime:
        value, segment = audio(sound(100, 30), 0)
        session = session_with(wire, value, segment)
        running = asyncio.create_task(runtime.session(session))
        for count, status in ((2, 1), (3, 2)):
            await wire.wait_for(count - 1)
            value, segment = audio(sound(100, 30 * count), status)
            session.deliver(Part(msgspec.json.encode(value), (segment,)), 100)
        session.end_parts()
        await running
        found = [json.loads(value["payload"]["levels"]["text"]) for value in wire.values]
        assert [(one["samples"], one["peak"]) for one in found] == [(100, 30), (200, 60), (300, 90)]
        assert found[-1]["rms"] == pytest.approx(30 * math.sqrt((1 + 4 + 9) / 3), abs=0.001)
    assert number(levels, "levelsAlive") == 0


# Descriptions and options


async def test_an_engine_without_a_description_takes_any_data(tmp_path: Path) -> None:
    async with loaded(engine(tmp_path)) as runtime:
        schema = runtime.describe()
        assert schema.session is None
        assert schema.input["x-athena"]["version"] == "0.9"


@pytest.mark.parametrize(
    ("options", "field", "detail"),
    [
        ({"library": ""}, "library", "must be the path of a shared library"),
        ({"library": "none.so"}, "library", "must exist in the manifest's folder: none.so (has it been compiled?)"),
        ({"config": 1}, "config", "must be a table of texts, numbers and booleans"),
        ({"config": {"a": [1]}}, "config", "must be a table of texts, numbers and booleans"),
        ({"callbacks": "yes"}, "callbacks", "must be true or false"),
        ({"header_pass": "uid"}, "header_pass", "must be a list of names of fields"),
        ({"schema": "gone.json"}, "schema", "must be a file in the manifest's folder: gone.json"),
        ({"resources": ["x"]}, "resources", "must be a table of files"),
        ({"resources": {"x": "gone"}}, "resources.x", "must be a file in the manifest's folder: gone"),
        ({"flags": 1}, "flags", "it has library, config, callbacks"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    tmp_path: Path, options: dict[str, Any], field: str, detail: str
) -> None:
    (tmp_path / "libwrapper.so").write_bytes(b"")
    whole = {"name": "m", "runtime": "aiges-native", "aiges-native": options}
    with pytest.raises(InvalidInput) as refused:
        manifest.check(whole, folder=tmp_path, source="folder")
    ((name, found),) = [(problem.field, problem.detail) for problem in refused.value.problems]
    assert name == f"aiges-native.{field}"
    assert detail in found


# Lists

_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
_ITEMS = st.builds(
    Item,
    key=_TEXTS,
    data=st.binary(max_size=200),
    kind=st.integers(0, 4),
    status=st.integers(0, 3),
    attributes=st.dictionaries(_TEXTS, _TEXTS, max_size=3),
)


@hypothesis.given(st.lists(_ITEMS, max_size=5))
def test_lists_of_c_hold_what_they_are_made_from(items: list[Item]) -> None:
    first, _kept = INTERFACE.data(items)
    assert INTERFACE.items(INTERFACE.ffi.cast("struct DataList *", first)) == items


# What engines may not do


async def test_functions_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = engine(tmp_path, without=["wrapperFini", "wrapperExecFree"])
    with pytest.raises(CallFailed, match=r"libwrapper.so has no function wrapperFini, wrapperExecFree: see") as failed:
        async with loaded(folder):
            pass
    assert failed.value.category is Category.UNAVAILABLE


def test_the_headers_declare_what_is_required() -> None:
    declared = (HEADERS / "wrapper.h").read_text()
    assert len(FUNCTIONS) == 15
    assert all(f"{name}(" in declared for name in FUNCTIONS)


@pytest.mark.parametrize(
    "compiler", [["cc", "-std=c99", "-xc"], ["cc", "-std=c17", "-xc"], ["c++", "-std=c++11", "-xc++"]]
)
def test_the_headers_are_plain_c_and_cpp(compiler: list[str]) -> None:
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"this machine has no {compiler[0]}")
    strict = ["-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}", "-fsyntax-only", "-"]
    subprocess.run([*compiler, *strict], input=b'#include "wrapper.h"\npDataList list;\n', check=True, timeout=LIMIT)


async def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libwrapper.so").write_text("text")
    with pytest.raises(CallFailed, match=r"libwrapper.so cannot be loaded: "):
        async with loaded(tmp_path):
            pass


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match=r"^seventy-seven;code=77$") as failed:
        async with loaded(engine(tmp_path, init="return 77;")):
            pass
    assert (failed.value.category, failed.value.code) == (Category.UNAVAILABLE, 10901)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("*result = NULL;", "the engine returned no results"),
        ("one.data = NULL; *result = &one;", "its result 'out' is NULL, but its length is 4"),
        ("one.type = 9; *result = &one;", "its result 'out' has the type 9 and the status 3"),
        ("one.status = (DataStatus)-1; *result = &one;", "has the type 0 and the status 4294967295"),
        ("one.next = &one; *result = &one;", "has more than 10000 elements, or has no end"),
        (
            "static struct ParamList pair; pair.next = &pair; one.desc = &pair; *result = &one;",
            "list of attributes has",
        ),
        ("one.len = 4294967295u; *result = &one;", f"its results have more than {frames.LARGEST} bytes"),
        ("return -7;", "the engine reported an error;code=-7"),
        ("return 77;", "seventy-seven;code=77"),
    ],
)
async def test_results_that_cannot_be_right_fail_their_call_only(tmp_path: Path, body: str, message: str) -> None:
    with_key = 'if (strcmp(params->value, "good") == 0) { *result = &fine; return 0; }'
    good = 'static struct DataList fine = {"out", "fine", 4, DataText, DataOnce, NULL, NULL};' + with_key
    async with loaded(engine(tmp_path, exec=good + body)) as runtime:
        with pytest.raises(CallFailed) as failed:
            await runtime.predict(call_with(CollectingWire(), {"parameter": {"which": "bad"}}))
        assert message in failed.value.message
        assert failed.value.category is Category.INTERNAL
        output = await runtime.predict(call_with(CollectingWire(), {"parameter": {"which": "good"}}))
        assert read(output) == {"payload": {"out": {"text": "fine", "status": 3}}}
        assert number(tmp_path, "countFreed") == (1 if "code=" in message else 2)


async def test_keys_and_attributes_may_be_missing_or_not_utf8(tmp_path: Path) -> None:
    body = r"""
        static struct ParamList rate = {"rate", "8000", 0, NULL}, pair = {NULL, NULL, 5, &rate};
        one.key = NULL; one.data = "\xff\xfe"; one.len = 2; one.desc = &pair; *result = &one;"""
    async with loaded(engine(tmp_path, exec=body)) as runtime:
        output = await runtime.predict(call_with(CollectingWire(), {}))
        assert read(output) == {"payload": {"": {"": "", "rate": "8000", "text": None, "status": 3}}}
        assert [bytes(segment.in_memory()) for segment in output.segments] == [b"\xff\xfe"]


async def test_an_engine_gets_what_it_may_change_and_read_as_text(tmp_path: Path) -> None:
    body = r"""
        for (; data != NULL; data = data->next) {
            if (strlen(data->data) != data->len) return 1;
            ((char *)data->data)[0] = 'X';
            one.data = data->data;
        }
        static char text[200];
        text[0] = 0;
        for (; params != NULL; params = params->next) {
            if (strlen(params->value) != params->vlen) return 2;
            sprintf(text + strlen(text), "%s=%s;", params->key, params->value);
        }
        one.data = text; one.len = (unsigned)strlen(text); *result = &one;"""
    async with loaded(engine(tmp_path, exec=body), header_pass=["uid", "gone"]) as runtime:
        given = {"header": {"uid": "u", "x": 1, "sid": "s"}, "parameter": {"rate": 16000, "ä": "ö"}}
        media = Segment(memoryview(b"bytes").toreadonly(), path=("payload", "in", "image"))
        value = given | {"payload": {"in": {"image": None}}}
        output = await runtime.predict(call_with(CollectingWire(), value, media))
        assert read(output)["payload"]["out"]["text"] == "uid=u;rate=16000;ä=ö;sid=s;"


async def test_callbacks_that_come_again_late_or_with_a_wrong_tag_reach_no_call(tmp_path: Path) -> None:
    body = r"""
        if (callback("penstock-999", &one, 0) != -1) return 1;
        if (callback(NULL, &one, 0) != -1) return 2;
        if (callback(usrTag, &one, 0) != 0) return 3;
        callback(usrTag, &one, 0);
        callback(usrTag, NULL, 5);"""
    async with loaded(engine(tmp_path, **{"async": body}), callbacks=True) as runtime:
        for _ in range(3):
            output = await runtime.predict(call_with(CollectingWire(), {}))
            assert read(output) == {"payload": {"out": {"text": "text", "status": 3}}}
            assert number(tmp_path, "callBackLate") == -1


async def test_a_call_that_gets_no_callback_ends_with_its_caller_and_a_late_one_is_ignored(tmp_path: Path) -> None:
    async with loaded(engine(tmp_path, **{"async": ""}), callbacks=True) as runtime:
        for count in (1, 2):
            running = asyncio.create_task(runtime.predict(call_with(CollectingWire(), {})))
            await settled(lambda count=count: number(tmp_path, "countBegun") == count)  # type: ignore[misc]
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            gc.collect()
            assert number(tmp_path, "callBackLate") == -1


async def test_a_failure_comes_through_the_callback(tmp_path: Path) -> None:
    async with loaded(engine(tmp_path, **{"async": "callback(usrTag, NULL, 77);"}), callbacks=True) as runtime:
        with pytest.raises(CallFailed, match=r"^seventy-seven;code=77$") as failed:
            await runtime.predict(call_with(CollectingWire(), {}))
        assert failed.value.code == 10910


async def test_results_of_a_call_that_come_in_pieces_are_joined(tmp_path: Path) -> None:
    body = r"""
        struct DataList other = {"other", "o", 1, DataText, DataBegin, NULL, NULL};
        struct DataList piece = {"out", "abc", 3, DataText, DataBegin, NULL, NULL};
        callback(usrTag, &piece, 0);
        callback(usrTag, &other, 0);
        piece.status = DataEnd;
        callback(usrTag, &piece, 0);
        other.status = DataEnd;
        callback(usrTag, &other, 0);"""
    async with loaded(engine(tmp_path, **{"async": body}), callbacks=True) as runtime:
        output = await runtime.predict(call_with(CollectingWire(), {}))
        assert read(output) == {
            "payload": {"out": {"text": "abcabc", "status": 3}, "other": {"text": "oo", "status": 3}}
        }


async def test_a_call_that_is_cancelled_ends_when_the_engine_has_returned(tmp_path: Path) -> None:
    body = """
        __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 2) usleep(1000);
        *result = &one;"""
    async with loaded(engine(tmp_path, exec=body)) as runtime:
        running = asyncio.create_task(runtime.predict(call_with(CollectingWire(), {})))
        await settled(lambda: number(tmp_path, "countBegun") == 1)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=0.05)
        assert not done
        counter = ctypes.CDLL(str(tmp_path / "libwrapper.so"))
        counter.countBegin()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert number(tmp_path, "countFreed") == 1


async def test_metering_metrics_and_traces_reach_the_log_and_the_usage(tmp_path: Path) -> None:
    body = r"""
        struct ParamList second = {"b", "2", 1, NULL}, labels = {"a", "1", 1, &second};
        if (meter(usrTag, "words", 2) || meter(usrTag, "words", 3) || meter(usrTag, NULL, 1)) return 1;
        if (metrics(usrTag, "delay", &labels, -5000000000) || metrics(usrTag, NULL, NULL, 0)) return 2;
        if (trace(usrTag, "step", "h\xc3\xa4lf") || trace(usrTag, NULL, NULL)) return 3;
        if (meter("x", "words", 1) != -1 || metrics("x", "y", NULL, 1) != -1 || trace(NULL, "k", "v") != -1) return 4;
        *result = &one;"""
    wire = CollectingWire()
    async with loaded(engine(tmp_path, exec=body)) as runtime:
        output = await runtime.predict(call_with(wire, {}))
        assert read(output)["usage"] == {"words": 5, "": 1}
    assert [line for _, line in wire.lines] == [
        "usage words=2", "usage words=3", "usage =1", "metric delay{a=1,b=2}=-5000000000", "metric {}=0",
        "step: hälf", ": ",
    ]  # fmt: skip


# Sessions that go wrong


async def test_a_session_that_cannot_be_created_is_not_destroyed(tmp_path: Path) -> None:
    for name, body, message in (
        ("a", "*errNum = 77;", "seventy-seven;code=77"),
        ("b", "return NULL;", "returned NULL"),
    ):
        (tmp_path / name).mkdir()
        async with loaded(engine(tmp_path / name, create=body), sessions=True, callbacks=True) as runtime:
            with pytest.raises(CallFailed, match=message):
                await runtime.session(session_with(SessionWire(), text("x", 0)))
            assert number(tmp_path / name, "countDestroyed") == 0


async def test_a_failure_ends_a_session_that_waits_for_a_part(tmp_path: Path) -> None:
    async with loaded(engine(tmp_path, write="kept_callback(kept_tag, NULL, 77);"), callbacks=True) as runtime:
        with pytest.raises(CallFailed, match="seventy-seven;code=77"):
            await runtime.session(session_with(SessionWire(), text("x", 0)))
        assert number(tmp_path, "countDestroyed") == 1


async def test_the_last_result_ends_a_session_before_its_last_part(tmp_path: Path) -> None:
    wire = SessionWire()
    async with loaded(engine(tmp_path, write="kept_callback(kept_tag, &one, 0);"), callbacks=True) as runtime:
        await runtime.session(session_with(wire, text("x", 0)))
        assert [value["payload"]["out"]["text"] for value in wire.values] == ["text"]
        assert number(tmp_path, "countDestroyed") == 1
        assert number(tmp_path, "callBackLate") == -1


async def test_a_caller_that_leaves_while_its_session_is_destroyed_leaves_nothing(tmp_path: Path) -> None:
    destroy = """
        __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 3) { usleep(1000); }
        """
    folder = engine(tmp_path, write="kept_callback(kept_tag, NULL, 77);", destroy=destroy)
    async with loaded(folder, callbacks=True) as runtime:
        running = asyncio.create_task(runtime.session(session_with(SessionWire(), text("x", 0))))
        await settled(lambda: number(tmp_path, "countBegun") == 2)
        running.cancel()
        await asyncio.sleep(0)
        number(tmp_path, "countBegin")
        with pytest.raises(asyncio.CancelledError):
            await running
        assert number(tmp_path, "meterLate") == -1


async def test_calls_whose_end_the_engine_never_reports_end_the_replica_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that were destroyed and calls that are reported late don't count."""
    monkeypatch.setattr(library, "MAX_ABANDONED", 2)
    async with loaded(engine(tmp_path, **{"async": ""}), callbacks=True, sessions=True) as runtime:
        begun = 0

        async def leave(run: Coroutine[Any, Any, object]) -> None:
            nonlocal begun
            begun += 1
            running = asyncio.create_task(run)
            await settled(lambda: number(tmp_path, "countBegun") == begun)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        for _ in range(3):
            await leave(runtime.session(session_with(SessionWire(), text("x", 0))))
        for _ in range(3):
            await leave(runtime.predict(call_with(CollectingWire(), {})))
            assert number(tmp_path, "callBackLate") == -1
        for _ in range(2):
            await leave(runtime.predict(call_with(CollectingWire(), {})))
        with pytest.raises(SystemExit, match="has not reported the end of 2 calls"):
            await runtime.predict(call_with(CollectingWire(), {}))


async def test_a_caller_that_reads_too_slowly_blocks_no_thread_of_the_engine(tmp_path: Path) -> None:
    body = f"""
        static char large[{2**20}];
        struct DataList piece = {{"out", large, {2**20}, DataAudio, DataContinue, NULL, NULL}};
        int count = 0;
        while (kept_callback(kept_tag, &piece, 0) == 0 && count < 1000) count++;
        __atomic_store_n(&begun, 1000 + count, __ATOMIC_SEQ_CST);"""
    wire = SessionWire()
    async with loaded(engine(tmp_path, write=body), callbacks=True) as runtime:
        session = session_with(wire, text("x", 0), window=1000)
        running = asyncio.create_task(runtime.session(session))
        await settled(lambda: number(tmp_path, "countBegun") >= 1000)
        assert 0 < number(tmp_path, "countBegun") - 1000 <= results.MAX_WAITING_BYTES // 2**20 + 2
        while not running.done():
            session.grant(2**20 + 1000)
            await asyncio.sleep(0)
        with pytest.raises(CallFailed, match="the caller reads too slowly") as failed:
            await running
        assert failed.value.category is Category.RATE_LIMITED


# Through a host


async def test_a_replica_runs_the_c_example(upper: Path, models: Models) -> None:
    text_model = await models.host.add(manifest.read(upper / manifest.FILE_NAME))
    for value in text_model.model.manifest.examples:
        assert (await models.call(text_model, value))["payload"]["upper"]["text"] == "HELLO"
    assert text_model.schema is not None
    assert text_model.schema.input["x-athena"]["inputs"] == [{"key": "text", "encoding": "utf8"}]
    session = models.session(text_model, text("one", 0))
    await session.send(msgspec.json.encode(text("two", 2)))
    session.finish()
    chunks = msgspec.json.decode((await session.done).json)
    assert [chunk["payload"]["upper"]["text"] for chunk in chunks] == ["ONE", "TWO"]
    session.close()


async def test_a_replica_runs_the_cpp_example(levels: Path, models: Models) -> None:
    sound_model = await models.host.add(manifest.read(levels / manifest.FILE_NAME))
    for value in sound_model.model.manifest.examples:
        assert "peak" in (await models.call(sound_model, value))["payload"]["levels"]["text"]
    with pytest.raises(InvalidInput, match=r"payload.audio: is required"):
        await models.call(sound_model, {"payload": {}})


async def test_a_crash_stays_in_the_replica(tmp_path: Path, models: Models) -> None:
    crash = "if (params->next != NULL) *(volatile int *)0 = 1; *result = &one;"
    engine(tmp_path, exec=crash, write="*(volatile int *)0 = 1;")
    model = await models.host.add(models.model("crash", "aiges-native", {"sessions": True}, retry=False))
    with pytest.raises(ModelCrashed):
        await models.call(model, {"parameter": {"a": "b"}})
    assert (await models.call(model, {}))["payload"]["out"]["text"] == "text"
    session = models.session(model, text("x", 0))
    with pytest.raises(ModelCrashed):
        await session.done
    session.close()
    assert (await models.call(model, {}))["payload"]["out"]["text"] == "text"


async def test_an_engine_without_callbacks_and_sessions_blocks(tmp_path: Path, upper: Path, models: Models) -> None:
    (tmp_path / "plain").mkdir()
    folder = engine(tmp_path / "plain")
    spec = Spec(name="m", version="1", folder=folder, options={}, schema=Schema())
    assert isinstance(create(spec), BlockingEngine)
    options = {"library": str(upper / "libwrapper.so"), "config": {"suffix": "!"}, "load_resources": True}
    model = await models.host.add(models.model("upper", "aiges-native", options, concurrency=4))
    found = await asyncio.gather(*(models.call(model, text(f"number {index}")) for index in range(100)))
    assert [one["payload"]["upper"]["text"] for one in found] == [f"NUMBER {index}!" for index in range(100)]
    assert found[0]["usage"] == {"letters": 6}
    with pytest.raises(ModelFailed, match="there is no text;code=4001"):
        await models.call(model, {})
    words = {"header": {"op": "AILoad", "res_id": "mine"}, "payload": {"words": {"text": "one"}}}
    assert await models.call(model, words) == {"payload": {}}
    said = await models.call(model, text("one two") | {"header": {"res_id": "mine"}})
    assert said["payload"]["upper"]["text"] == "one TWO!"
    assert model.restarts == 0
