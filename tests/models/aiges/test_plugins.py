"""Engines that are programs with a gRPC service, in replicas of a real host."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ModelCrashed, ModelFailed, ModelUnavailable
from penstock.failures import CallFailed
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.models.host.sessions import LiveSession
from penstock.models.replica.aiges.handshake import Address, WrongHandshake, parse
from penstock.models.replica.runtime import Schema, Spec
from penstock.models.replica.runtimes.aiges_plugin import AigesPluginRuntime
from tests.support.models import Models, Recorder, model_host, read
from tests.support.processes import alive
from tests.support.waiting import until

PLUGIN = str(Path(__file__).parent / "plugin.py")
ROOT = Path(__file__).parents[3]


def plugin(models: Models, fault: str = "", *, options: dict[str, Any] | None = None, **stated: Any) -> Any:
    command = [sys.executable, PLUGIN, *([fault] if fault else [])]
    whole = {"command": command, "sessions": True} | (options or {})
    environment = {"PYTHONPATH": f"{ROOT}/src"}
    return models.model("echo", "aiges-plugin", whole, retry=False, environment=environment, **stated)


def call_of(mode: str = "", text: str = "hello", status: int = 3, **header: Any) -> dict[str, Any]:
    return {
        "header": header,
        "parameter": {"mode": mode, "rate": 16000},
        "payload": {"text": {"text": text, "status": status, "encoding": "utf8"}},
    }


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Models, Deployment]]:
    """A plugin for tests that leave it running."""
    async with model_host(tmp_path_factory.mktemp("plugin")) as models:
        model = await models.host.add(
            plugin(models, concurrency=20, options={"config": {"size": 2, "fast": True}, "header_pass": ["uid"]})
        )
        await model.load()
        yield models, model
        assert model.restarts == 0


Shared = tuple[Models, Deployment]


async def ask(models: Models, model: Deployment, mode: str = "", **header: Any) -> Any:
    output = await models.call(model, call_of(mode, **header))
    return msgspec.json.decode(output["payload"]["echo"]["text"])


async def test_a_call_reaches_the_plugin_and_its_result_comes_on_the_stream(shared: Shared) -> None:
    models, model = shared
    facts = await ask(models, model, sid="s1", uid="u1", other=1)
    assert facts["params"] == {"mode": "", "rate": "16000", "sid": "s1", "uid": "u1"}
    assert facts["data"] == [["text", "hello", 5, 0, 3, {"encoding": "utf8"}]]
    assert facts["config"] == {"size": "2", "fast": "true"}
    assert facts["environment"]["BASIC_PLUGIN"] == "hello"
    assert (await ask(models, model, "reply"))["params"]["mode"] == "reply"


async def test_the_plugin_describes_itself(models: Models) -> None:
    model = await models.host.add(plugin(models, "late schema", options={"config": {"x": "y"}}))
    schema = await model.describe()
    assert schema.input["x-athena"]["version"] == "v1"
    assert schema.input["properties"]["parameter"]["properties"]["mode"] == {"type": "string", "maxLength": 20}
    assert schema.session is not None


async def test_a_schema_that_cannot_be_read_checks_nothing(models: Models) -> None:
    model = await models.host.add(plugin(models, "schema"))
    assert (await ask(models, model))["params"]["mode"] == ""
    assert model.schema is not None
    assert model.schema.input["properties"]["payload"]["properties"] == {}


async def test_what_the_plugin_writes_is_in_the_log(shared: Shared) -> None:
    models, model = shared
    wanted = {"the plugin starts", "standard output", "standard error"}
    await until(lambda: wanted <= {line.message for line in models.lines(model)}, "its lines")


@pytest.mark.parametrize(
    ("mode", "message", "code"),
    [
        ("ret", "the engine reported an error;code=4001", 10909),
        ("late ret", "the engine reported an error;code=-3", 10910),
        ("raise", "wrapperOnceExec: Exception calling application: this is what went wrong", 30003),
        ("kind", "the plugin returned 'k' with the type 9 and the status 0", 10106),
        ("empty", "the engine returned no results", 10106),
    ],
)
async def test_a_failure_reaches_its_caller_at_once(shared: Shared, mode: str, message: str, code: int) -> None:
    models, model = shared
    with pytest.raises(ModelFailed) as failed:
        await ask(models, model, mode)
    assert message in failed.value.message
    assert failed.value.engine_code == code
    assert (await ask(models, model))["params"]["mode"] == ""


@pytest.mark.parametrize("mode", ["stray", "twice"])
async def test_results_that_no_call_waits_for_reach_none(shared: Shared, mode: str) -> None:
    models, model = shared
    for _ in range(3):
        assert (await ask(models, model, mode))["params"]["mode"] == mode
    assert (await ask(models, model))["params"]["mode"] == ""
    await until(lambda: any("which no call has" in line.message for line in models.lines(model)), "a warning")
    assert max(len(line.message) for line in models.lines(model)) < 500


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("exit", "the plugin is lost: the program ended with exit status 7"),
        ("break", "the plugin is lost: its stream of results ended"),
        ("unhealthy", "the plugin is lost: it reports that it is not healthy"),
        ("huge", "the plugin is lost: its stream of results broke: .*larger than max"),
    ],
)
async def test_a_plugin_that_is_lost_ends_its_calls_at_once_and_is_started_again(
    models: Models, mode: str, message: str
) -> None:
    model = await models.host.add(plugin(models, concurrency=2))
    first = (await ask(models, model))["process"]
    waiting = models.begin(model, call_of("never"))
    with pytest.raises(ModelCrashed, match=message):
        await ask(models, model, mode)
    with pytest.raises(ModelCrashed):
        await waiting.done
    assert (await ask(models, model))["process"] != first
    assert not alive(first)


async def test_a_plugin_dies_with_its_replica(models: Models) -> None:
    model = await models.host.add(plugin(models))
    process = (await ask(models, model))["process"]
    (replica,) = model.replicas
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGKILL)
    await until(lambda: not alive(process), "its end")


async def test_a_plugin_ends_when_its_model_is_unloaded(models: Models) -> None:
    model = await models.host.add(plugin(models))
    process = (await ask(models, model))["process"]
    await model.unload()
    assert not alive(process)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("garbage", "the program ended with exit status 3 and stated no address"),
        ("endless", "it wrote a line of more than 65536 bytes"),
        ("lines", "it wrote 1000 lines and stated no address"),
        ("ill", "the plugin reports that it is not healthy"),
        ("1|1|tcp|10.0.0.1:80|grpc", "it must listen on a port of this machine"),
        ("1|1|tcp|127.0.0.1:80|netrpc", "it uses the protocol netrpc, not grpc"),
    ],
)
async def test_a_plugin_that_cannot_be_used_says_why(models: Models, fault: str, message: str) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        await models.host.add(plugin(models, fault, eager=True))


async def test_an_engine_that_cannot_be_loaded_says_why(models: Models) -> None:
    model = await models.host.add(plugin(models, options={"config": {"ret": 12}}))
    with pytest.raises(ModelUnavailable, match="the engine reported an error;code=12"):
        await ask(models, model)


async def test_a_plugin_without_a_health_service_is_used(models: Models) -> None:
    model = await models.host.add(plugin(models, "no health"))
    assert (await ask(models, model))["params"]["mode"] == ""


async def test_a_plugin_whose_port_another_process_shares_is_refused(models: Models) -> None:
    """Several processes may listen on one port, and the kernel would divide the calls among them."""
    other = await models.host.add(plugin(models))
    await ask(models, other)
    port = int((await ask(models, other))["environment"]["PLUGIN_MIN_PORT"])
    model = models.model(
        "second", "aiges-plugin", {"command": [sys.executable, PLUGIN, f"1|1|tcp|127.0.0.1:{port}|grpc"]}
    )
    with pytest.raises(ModelUnavailable, match=f"another process listens on port {port} as well"):
        await models.call(await models.host.add(model), call_of())
    assert (await ask(models, other))["params"]["mode"] == ""


# Sessions


class Chunks(Recorder):
    """A listener whose caller reads every chunk as it comes."""

    session: LiveSession

    def chunk(self, json: bytes, segments: Any) -> None:
        super().chunk(json, segments)
        self.session.consume(self.session.unread)

    async def read(self, count: int) -> list[Any]:
        while len(self.chunks) < count:
            assert not self.session.done.done(), self.session.done
            self.chunk_came.clear()
            await self.chunk_came.wait()
        return [(one["payload"]["echo"]["text"], one["payload"]["echo"]["status"]) for one in self.chunks]


def begin(models: Models, model: Deployment, first: Any) -> tuple[LiveSession, Chunks]:
    chunks = Chunks()
    chunks.session = session = models.session(model, first, listener=chunks)
    session.done.add_done_callback(lambda _: chunks.chunk_came.set())
    return session, chunks


def part(text: str, status: int) -> bytes:
    return msgspec.json.encode({"payload": {"text": {"text": text, "status": status}}})


@pytest.mark.parametrize("mode", ["", "by handle"])
async def test_a_session_gets_results_while_it_sends_parts(shared: Shared, mode: str) -> None:
    models, model = shared
    before = (await ask(models, model))["destroyed"]
    for number in range(2):
        session, chunks = begin(models, model, call_of(mode, "one", 0, sid="s"))
        assert await chunks.read(1) == [("s one", 0)]
        await session.send(part("two", 1))
        assert await chunks.read(2) == [("s one", 0), ("s two", 1)]
        await session.send(part("three", 2))
        session.finish()
        await session.done
        assert await chunks.read(3) == [("s one", 0), ("s two", 1), ("s three", 2)]
        assert len((await ask(models, model))["destroyed"]) == len(before) + number + 1
    await until(lambda: any("wrapperDestroy returned 9" in line.message for line in models.lines(model)), "a warning")


async def test_a_session_whose_caller_leaves_is_destroyed(shared: Shared) -> None:
    models, model = shared
    before = (await ask(models, model))["destroyed"]
    session, chunks = begin(models, model, call_of("", "one", 0))
    await chunks.read(1)
    session.close()

    async def destroyed() -> bool:
        return len((await ask(models, model))["destroyed"]) == len(before) + 1

    await until(destroyed, "wrapperDestroy")


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        ("refuse", "one", "the engine reported an error;code=5"),
        ("nothing", "one", "wrapperCreate returned no handle and no error"),
        ("", "bad", "the engine reported an error;code=6"),
    ],
)
async def test_a_session_that_fails_says_why(shared: Shared, mode: str, text: str, message: str) -> None:
    models, model = shared
    before = (await ask(models, model))["destroyed"]
    session, _ = begin(models, model, call_of(mode, text, 0))
    with pytest.raises(ModelFailed, match=message):
        await session.done
    assert len((await ask(models, model))["destroyed"]) == len(before) + (not mode)


async def test_sessions_at_a_time_do_not_mix(shared: Shared) -> None:
    models, model = shared

    async def one(name: str) -> None:
        session, chunks = begin(models, model, call_of("", "0", 0, sid=name))
        for number in range(1, 10):
            await chunks.read(number)
            await session.send(part(str(number), 2 if number == 9 else 1))
        session.finish()
        await session.done
        assert [text for text, _ in await chunks.read(10)] == [f"{name} {number}" for number in range(10)]

    await asyncio.gather(*(one(f"s{number}") for number in range(20)))


async def test_a_plugin_that_dies_ends_all_of_its_sessions(models: Models) -> None:
    model = await models.host.add(plugin(models, concurrency=5))
    process = (await ask(models, model))["process"]
    sessions = [begin(models, model, call_of("", "one", 0)) for _ in range(5)]
    for _, chunks in sessions:
        await chunks.read(1)
    psutil.Process(process).kill()
    for session, _ in sessions:
        with pytest.raises(ModelCrashed, match="the plugin is lost: the program was ended by"):
            await session.done
    assert (await ask(models, model))["process"] != process


@pytest.mark.parametrize("missing", ["grpc", "grpc_health", "google.protobuf"])
def test_a_missing_package_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    spec = Spec(name="m", version="1", folder=tmp_path, options={"command": ["sh"]}, schema=Schema())
    with pytest.raises(CallFailed, match=r"plugins need gRPC, and .* is missing: pip install penstock\[athena\]"):
        AigesPluginRuntime(spec).describe()


# The handshake


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("1|1|tcp|127.0.0.1:50055|grpc", Address(port=50055)),
        ("1|1|tcp|[::1]:80|grpc\r", Address(port=80)),
        ("1|1|tcp|localhost:80|grpc||true", Address(port=80)),
        ("1|1|unix|/tmp/plugin-1|grpc", Address(path="/tmp/plugin-1")),
        ("a line", None),
        ("a | b | c", None),
        ("", None),
    ],
)
def test_a_handshake_says_where_a_plugin_listens(line: str, address: Address | None) -> None:
    assert parse(line) == address


@pytest.mark.parametrize(
    "line",
    [
        "1|1|tcp",
        "1|1|tcp|127.0.0.1|grpc",
        "1|1|tcp|127.0.0.1:0|grpc",
        "1|1|tcp|127.0.0.1:99999999999999|grpc",
        "1|1|tcp|127.0.0.1:port|grpc",
        "1|1|tcp|example.com:80|grpc",
        "1|1|unix|relative|grpc",
        "1|1|pipe|x|grpc",
        "2|1|tcp|127.0.0.1:80|grpc",
        "1|2|tcp|127.0.0.1:80|grpc",
        "1|1|tcp|127.0.0.1:80|netrpc",
        "1|1|tcp|127.0.0.1:80|grpc|certificate",
    ],
)
def test_a_handshake_that_cannot_be_used_is_refused(line: str) -> None:
    with pytest.raises(WrongHandshake):
        parse(line)


# An engine in Java


def java_is_missing() -> str:
    """Return what the example in Java lacks on this machine."""
    missing = [program for program in ("javac", "make", "protoc", "grpc_java_plugin") if shutil.which(program) is None]
    if not Path("/usr/share/java/grpc-netty.jar").exists():
        missing.append("libgrpc-java")
    return ", ".join(missing)


@pytest.fixture
def upper_java(tmp_path: Path) -> Path:
    """The folder of the example in Java, compiled."""
    if missing := java_is_missing():
        pytest.skip(f"gRPC for Java is incomplete here: {missing}")
    example = ROOT / "examples" / "athena" / "upper-java"
    folder = tmp_path / example.name
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("classes", "generated", "run.sh"))
    proto = ROOT / "src/penstock/models/replica/aiges/messages"
    subprocess.run(["make", "-s", "-C", str(folder), f"PROTO={proto}"], check=True, timeout=100)
    return folder


async def test_the_example_in_java_runs_calls_and_sessions(upper_java: Path, models: Models) -> None:
    model = await models.host.add(manifest.read(upper_java / manifest.FILE_NAME))
    assert (await models.call(model, call_of(text="höhe")))["payload"]["upper"]["text"] == "HÖHE"
    with pytest.raises(ModelFailed, match="the engine reported an error;code=4001"):
        await models.call(model, {})
    session = models.session(model, call_of(text="one", status=0))
    await session.send(part("two", 2))
    session.finish()
    chunks = read(await session.done)
    assert [chunk["payload"]["upper"]["text"] for chunk in chunks] == ["ONE", "TWO"]
    session.close()


@given(st.text(max_size=60) | st.from_regex(r"\A\d{0,5}\|\d{0,5}\|(tcp|unix|x)?\|[^|]{0,30}\|(grpc)?(\|.*)?\Z"))
def test_no_line_fails_in_another_way(line: str) -> None:
    with suppress(WrongHandshake):
        address = parse(line)
        assert address is None or address.path is not None or address.port in range(1, 2**16)
