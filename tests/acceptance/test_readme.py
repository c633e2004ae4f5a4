"""The examples of the README work as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.processes import clean_environment, free_port, penstock, until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def example(language: str) -> str:
    """The README's only example in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A running ``penstock serve`` whose language model says what it was asked."""
    folder = tmp_path_factory.mktemp("readme")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    async with _language_model() as model:
        environment = clean_environment(
            HTTP_PORT=str(port),
            WORKER_HTTP_PORT=str(free_port()),
            PENSTOCK_DATA_DIR=str(folder / "data"),
            LLM_BASE_URL=model,
        )
        async with penstock("serve", environment=environment, folder=folder) as serve:
            await until(lambda: _ready(address), "serve is ready", seconds=30)
            yield address
            serve.terminate()
            await serve.wait()


async def test_the_example_in_curl(address: str) -> None:
    script = example("bash").replace("http://127.0.0.1:8080", address)
    out = await _run("bash", "-euo", "pipefail", "-c", script)
    assert '"status": "completed"' in out
    assert '"text": "HELLO"' in out
    assert [line for line in out.splitlines() if line.startswith("event:")] == [
        "event: job.created",
        "event: job.started",
        "event: job.completed",
    ]


async def test_the_example_in_python(address: str) -> None:
    out = await _run(sys.executable, "-c", example("python").replace("http://127.0.0.1:8080", address))
    assert out.startswith("completed ")
    assert "You said: Say hello." in out


def test_the_readme_names_only_files_that_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=clean_environment(PYTHONPATH=str(ROOT / "src")), stdout=PIPE, stderr=PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def _ready(address: str) -> bool:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{address}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def _language_model() -> AsyncIterator[str]:
    async def chat(request: web.Request) -> web.Response:
        asked = json.loads(await request.text())["messages"][-1]["content"]
        choice = {"message": {"role": "assistant", "content": f"You said: {asked}"}}
        return web.json_response({"model": "qwen2.5-14b", "choices": [choice], "usage": {"total_tokens": 7}})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()
