"""The Python client's model calls, against a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock import BlockingClient, Client, InvalidInput, MediaAnswer, ModelFailed, NotFound
from tests.gateway.stage import Caller, serving

CODE = {
    "greet": """
from penstock import Context

class Model:
    def predict(self, name: str, context: Context) -> str:
        print("greeting", name)
        if name == "nobody":
            raise LookupError("there is nobody")
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
}


@pytest.fixture(scope="module")
async def caller(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caller]:
    folder = tmp_path_factory.mktemp("models")
    for name, code in CODE.items():
        (folder / name).mkdir()
        (folder / name / f"{name}_model.py").write_text(code)
        (folder / name / "model.toml").write_text(f'runtime = "python"\n[python]\nclass = "{name}_model:Model"\n')
    async with serving(module_database_url, models_folder=folder) as caller:
        yield caller


@pytest.fixture
async def client(caller: Caller) -> AsyncIterator[Client]:
    async with Client(caller.address) as client:
        yield client


async def test_predict(client: Client) -> None:
    """Values come as Python's own; errors as the classes of penstock."""
    assert await client.predict("greet", {"name": "Ada"}) == "Dear Ada"
    with pytest.raises(InvalidInput, match="name: is required"):
        await client.predict("greet")
    with pytest.raises(ModelFailed, match="there is nobody"):
        await client.predict("greet", {"name": "nobody"})
    with pytest.raises(NotFound):
        await client.predict("none", {})
    with pytest.raises(NotFound):
        await client.predict("greet", {"name": "Ada"}, version="9")


async def test_media(client: Client, tmp_path: Path) -> None:
    """In as bytes, path or with a type; out as bytes."""
    (tmp_path / "a.bin").write_bytes(b"abc")
    expected = MediaAnswer(data=b"cba", media_type="image/x-mirrored", name="mirrored.img")
    for file in (b"abc", tmp_path / "a.bin", ("a.bin", b"abc", "text/plain")):
        assert await client.predict("mirror", files={"file": file}) == expected
    twice = await client.predict("mirror", {"times": 2}, files={"file": b"ab"})
    assert twice.data == b"baba"


async def test_stream(client: Client) -> None:
    """Events as they come, the end, and errors in the middle."""
    events = [(event.type, event.data) async for event in client.stream("count", {"n": 2})]
    assert events[:2] == [("chunk", 0), ("chunk", 1)]
    assert events[2][0] == "done"
    told = [event async for event in client.stream("greet", {"name": "Ada"}, logs=True)]
    assert [event.type for event in told] == ["log", "done"]
    assert told[-1].data["output"] == "Dear Ada"
    with pytest.raises(ModelFailed, match="half way"):
        async for _ in client.stream("count", {"n": 1, "fail": True}):
            pass


async def test_models_and_logs(client: Client) -> None:
    """What there is, changes, and lines."""
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


async def test_the_blocking_client(caller: Caller) -> None:
    """The same without an event loop."""

    def work() -> list[str]:
        with BlockingClient(caller.address) as client:
            assert client.predict("greet", {"name": "Ada"}) == "Dear Ada"
            return [event.type for event in client.stream("count", {"n": 3})]

    assert await asyncio.to_thread(work) == ["chunk", "chunk", "chunk", "done"]
