"""The original package ``aiges`` as a plugin: ``python -m aiges.serve`` runs a wrapper that was written for it.

Its port is fixed, so the tests need it to be free, and use one plugin.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.errors import ModelFailed
from penstock.models import manifest
from penstock.models.host.deployment import Deployment
from penstock.models.host.sessions import LiveSession
from tests.support.models import Models, Recorder, model_host, read

PORT = 50055
FOLDER = Path(__file__).parent / "aiges"

Served = tuple[Models, Deployment]


def port_is_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    if not port_is_free():
        pytest.skip(f"the original's fixed port {PORT} is in use")
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(FOLDER / "wrapper.py", folder)
    async with model_host(folder) as models:
        packages = await models.host.add(manifest.read(FOLDER / "model.toml"))
        python = await models.call(packages, {})
        options = {"command": [python, "-m", "aiges.serve"], "sessions": True, "config": {"end": "?"}}
        yield models, await models.host.add(models.model("upper", "aiges-plugin", options, retry=False, concurrency=2))


def call_of(text: str, suffix: str = "!") -> dict[str, Any]:
    return {"parameter": {"suffix": suffix}, "payload": {"text": {"text": text}}}


async def test_a_call_runs_in_the_original(served: Served) -> None:
    models, model = served
    for number in range(20):
        output = await models.call(model, call_of(f"hello {number}"))
        assert output == {"payload": {"upper": {"text": f"HELLO {number}!?", "status": 3}}}


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("raise", "wrapperOnceExec: Exception calling application: this is what went wrong"),
        ("none", "the engine reported an error;code="),
    ],
)
async def test_a_failure_in_the_original_reaches_its_caller_at_once(served: Served, suffix: str, message: str) -> None:
    models, model = served
    with pytest.raises(ModelFailed) as failed:
        await models.call(model, call_of("x", suffix))
    assert message in failed.value.message
    assert (await models.call(model, call_of("x")))["payload"]["upper"]["text"] == "X!?"
    assert model.restarts == 0


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
        return [one["payload"]["upper"]["text"] for one in self.chunks]


async def test_a_session_runs_in_the_original(served: Served) -> None:
    models, model = served
    chunks = Chunks()
    first = {"header": {"sid": "s1"}, "payload": {"text": {"text": "one", "status": 0}}}
    chunks.session = session = models.session(model, first, listener=chunks)
    assert await chunks.read(1) == ["ONE"]
    for text, status in (("two", 1), ("three", 2)):
        await session.send(msgspec.json.encode({"payload": {"text": {"text": text, "status": status}}}))
    session.finish()
    assert read(await session.done) is None
    assert await chunks.read(3) == ["ONE", "TWO", "THREE"]
    session.close()
