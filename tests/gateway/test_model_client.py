"""The Python client's model calls, against a real gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from penstock import (
    AlreadyExists,
    BlockingClient,
    Client,
    InvalidInput,
    MediaFile,
    ModelCrashed,
    ModelFailed,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PoisonInput,
    ProviderFailed,
    ServiceError,
    Unreachable,
)
from penstock.supervisor.ports import free_port
from tests.support.gateways import HttpCaller, running_gateway
from tests.support.scripted_gateways import cuts, raises, returns, scripted_gateway
from tests.support.waiting import until

CODE = {
    "greet": """
from penstock import Context
from penstock.failures import CallFailed

class Model:
    def predict(self, name: str, context: Context) -> str:
        print("greeting", name)
        if name == "nobody":
            raise LookupError("there is nobody")
        if name == "engine":
            raise CallFailed("internal", "engine failed", code=10110)
        return f"Dear {name}"
""",
    "count": """
from collections.abc import Iterator

class Model:
    def predict(self, n: int, fail: bool = False) -> Iterator[int]:
        yield from range(n)
        if fail:
            raise RuntimeError("half way")
""",
    "mirror": """
from penstock import File

class Model:
    def predict(self, file: File, times: int = 1) -> File:
        return File(file.data[::-1] * times, "image/x-mirrored", name="mirrored.img")
""",
    "gate": """
class Model:
    def predict(self, path: str) -> str:
        with open(path) as file:  # waits for a writer
            return file.read()
""",
    "dies": """
import os

class Model:
    def predict(self, n: int) -> int:
        os._exit(3)
""",
    "waits": """
import asyncio

class Model:
    async def predict(self) -> None:
        print("waiting")
        await asyncio.Event().wait()
""",
    "hangs": """
import threading

class Model:
    def predict(self) -> None:
        threading.Event().wait()
""",
    "unloadable": """
class Model:
    def load(self) -> None:
        raise OSError("no weights")

    def predict(self) -> None: ...
""",
}
MANIFEST = {"gate": "queue = 1", "dies": "retry = false", "hangs": "timeout = 0.2", "waits": "eager = true"}


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpCaller]:
    folder = tmp_path_factory.mktemp("models")
    for name, code in CODE.items():
        (folder / name).mkdir()
        (folder / name / f"{name}_model.py").write_text(code)
        (folder / name / "model.toml").write_text(
            f'runtime = "python"\n{MANIFEST.get(name, "")}\n[python]\nclass = "{name}_model:Model"\n'
        )
    async with running_gateway(module_database_url, models_folder=folder) as caller:
        yield caller


@pytest.fixture
async def client(caller: HttpCaller) -> AsyncIterator[Client]:
    async with Client(caller.address) as client:
        yield client


async def test_predict(client: Client) -> None:
    """Values are Python's own; errors are the classes of penstock."""
    assert await client.predict("greet", {"name": "Ada"}) == "Dear Ada"
    with pytest.raises(InvalidInput, match="name: is required"):
        await client.predict("greet")
    with pytest.raises(ModelFailed, match="there is nobody"):
        await client.predict("greet", {"name": "nobody"})
    with pytest.raises(ModelFailed, match="engine failed") as failed:
        await client.predict("greet", {"name": "engine"})
    assert failed.value.engine_code == 10110
    with pytest.raises(NotFound):
        await client.predict("none", {})
    with pytest.raises(NotFound):
        await client.predict("greet", {"name": "Ada"}, version="9")


async def test_fields_as_arguments(client: Client) -> None:
    """They are the input or extend it; a field may be called ``name`` like the parameter."""
    assert await client.predict("greet", name="Ada") == "Dear Ada"
    assert await client.predict("count", {"n": 2}, fail=False) == [0, 1]
    assert (await client.predict("mirror", files={"file": b"ab"}, times=2)).data == b"baba"
    assert [event.data async for event in client.stream("count", n=2)][:2] == [0, 1]
    with pytest.raises(TypeError, match="'n' is given twice"):
        await client.predict("count", {"n": 2}, n=3)
    with pytest.raises(TypeError, match="can only be added to an input that is an object"):
        await client.predict("count", [2], n=3)


async def test_errors_of_models(client: Client) -> None:
    """Each has the class that shows whose mistake it was."""
    with pytest.raises(ModelTimeout):
        await client.predict("hangs")
    with pytest.raises(ModelUnavailable, match="no weights"):
        await client.predict("unloadable")
    for _ in range(2):
        with pytest.raises(ModelCrashed):
            await client.predict("dies", n=1)
    with pytest.raises(PoisonInput):
        await client.predict("dies", n=1)
    manifest = {"name": "far", "runtime": "http", "http": {"url": f"http://127.0.0.1:{free_port()}"}}
    await client.add_model(manifest)
    with pytest.raises(AlreadyExists):
        await client.add_model(manifest | {"description": "another"})
    assert (await client.add_model(manifest | {"description": "another"}, replace=True))["description"] == "another"
    with pytest.raises(ProviderFailed):
        await client.predict("far")
    await client.remove_model("far")


async def test_a_full_queue(client: Client, tmp_path: Path) -> None:
    """The call is refused at once, with the time to retry after."""
    gates = [tmp_path / "first", tmp_path / "second"]
    for gate in gates:
        os.mkfifo(gate)

    async def busy(in_flight: int, waiting: int) -> bool:
        (version,) = (await client.model("gate"))["details"]
        return (version["in_flight"], version["waiting"]) == (in_flight, waiting)

    first = asyncio.create_task(client.predict("gate", path=str(gates[0])))
    await until(lambda: busy(1, 0), "the model is busy")
    second = asyncio.create_task(client.predict("gate", path=str(gates[1])))
    await until(lambda: busy(1, 1), "its queue is full")
    with pytest.raises(Overloaded) as refused:
        await client.predict("gate", path="")
    assert refused.value.retry_after is not None
    for gate, word in zip(gates, ("one", "two"), strict=True):
        await asyncio.wait_for(asyncio.to_thread(gate.write_text, word), 10)
    async with asyncio.timeout(10):
        assert (await first, await second) == ("one", "two")


async def test_calls_are_never_repeated() -> None:
    """Neither calls whose response was lost nor calls refused for now are repeated: the caller decides."""
    async with scripted_gateway(cuts) as server, Client(server.url) as client:
        with pytest.raises(Unreachable):
            await client.predict("m", n=1)
        with pytest.raises(Unreachable):
            await anext(client.stream("m", n=1))
        paths = [path for _, path, _, _ in server.requests]
        assert paths == ["/api/v1/models/m/predict", "/api/v1/models/m/stream"]
    async with (
        scripted_gateway(raises(Overloaded(retry_after=timedelta(seconds=1)))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(Overloaded):
            await client.predict("m")
        assert len(server.requests) == 1


async def test_a_gateway_that_is_unavailable_late_or_something_else() -> None:
    """The error names the gateway's address."""
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unreachable, match=client.url):
            await client.predict("m")
    async with scripted_gateway(returns({}, 200)) as server, Client(server.url) as client:
        with pytest.raises(ServiceError, match="the stream ended before the call did"):
            await anext(client.stream("m"))


async def test_a_call_that_exceeds_its_callers_timeout(client: Client) -> None:
    """The call is given up, and its place becomes free."""

    async def ready() -> bool:
        return bool((await client.model("waits"))["state"] == "ready")

    await until(ready, "it is loaded")
    with pytest.raises(Unreachable):
        await client.predict("waits", timeout=timedelta(seconds=1))
    assert [line["message"] for line in await client.model_logs("waits")] == ["waiting"], "it had begun"

    async def free() -> bool:
        return not (await client.model("waits"))["details"][0]["in_flight"]

    await until(free, "the call was cancelled")


async def test_media(client: Client, tmp_path: Path) -> None:
    """Media go in as bytes, as a path or with a type, and come out as bytes."""
    (tmp_path / "a.bin").write_bytes(b"abc")
    expected = MediaFile(data=b"cba", media_type="image/x-mirrored", name="mirrored.img")
    for file in (b"abc", tmp_path / "a.bin", ("a.bin", b"abc", "text/plain")):
        assert await client.predict("mirror", files={"file": file}) == expected
    twice = await client.predict("mirror", {"times": 2}, files={"file": b"ab"})
    assert twice.data == b"baba"


async def test_stream(client: Client) -> None:
    """Streams yield events as they arrive, the end, and errors in the middle."""
    events = [(event.type, event.data) async for event in client.stream("count", {"n": 2})]
    assert events[:2] == [("chunk", 0), ("chunk", 1)]
    assert events[2][0] == "done"
    received = [event async for event in client.stream("greet", {"name": "Ada"}, logs=True)]
    assert [event.type for event in received] == ["log", "done"]
    assert received[-1].data["output"] == "Dear Ada"
    with pytest.raises(ModelFailed, match="half way"):
        async for _ in client.stream("count", {"n": 1, "fail": True}):
            pass


async def test_models_and_logs(client: Client) -> None:
    """Models are listed and changed, and their logs are read."""
    assert {model["name"] for model in (await client.models())["models"]} == set(CODE)
    assert (await client.model("greet"))["input_schema"]["required"] == ["name"]
    await client.predict("greet", {"name": "Eve"}, request_id="look")
    assert [line["message"] for line in await client.model_logs("greet", request_id="look")] == ["greeting Eve"]

    async def first() -> str:
        async for line in client.follow_model_logs("greet", request_id="live"):
            return str(line["message"])
        return ""

    following = asyncio.create_task(first())
    await client.predict("greet", {"name": "Bob"}, request_id="live")
    async with asyncio.timeout(5):
        assert await following == "greeting Bob"
    assert await client.clean_model_logs("greet") > 0
    await client.reload_model("greet")
    await client.remove_model("greet")
    with pytest.raises(NotFound):
        await client.model("greet")
    await client.add_model({"name": "greet"})
    assert await client.predict("greet", {"name": "Ada"}) == "Dear Ada"


async def test_the_blocking_client(caller: HttpCaller) -> None:
    """It works without an event loop."""

    def work() -> list[str]:
        with BlockingClient(caller.address) as client:
            assert client.predict("greet", {"name": "Ada"}) == "Dear Ada"
            assert client.predict("greet", name="Eve", request_id="blocking") == "Dear Eve"
            assert next(client.follow_model_logs("greet", request_id="blocking"))["message"] == "greeting Eve"
            list(client.stream("greet", name="Bob", request_id="marked"))
            assert [line["message"] for line in client.model_logs("greet", request_id="marked")] == ["greeting Bob"]
            return [event.type for event in client.stream("count", {"n": 3})]

    assert await asyncio.to_thread(work) == ["chunk", "chunk", "chunk", "done"]
