"""The examples in the README and in the guide to models work as written."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from penstock import Client
from penstock.apps import skeleton as app_skeleton
from penstock.supervisor.ports import free_port
from tests.support.http_servers import running
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


GUIDE = (ROOT / "docs" / "models.md").read_text()
CLIENT = (ROOT / "docs" / "client.md").read_text()


APPROVAL = """
from penstock.flows import flow, run

@flow(name="approval", version="1")
async def approval(amount: int) -> dict:
    answer = await run.wait_signal("answer")
    return {"amount": amount, "approved": answer["approved"]}
"""


def example(language: str, containing: str, text: str = README) -> str:
    """Return the only example in a language that contains some words."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    (found,) = (block for block in blocks if containing in block)
    return found


def put_model(folder: Path, name: str, text: str) -> None:
    """Write the model of a text into its own folder."""
    (folder / name).mkdir(parents=True)
    manifest = example("toml", "summary:Summary", text).replace("summary:", f"{name}:")
    (folder / name / "model.toml").write_text(manifest)
    (folder / name / f"{name}.py").write_text(example("python", "class Summary", text))


@pytest.fixture(scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A running ``penstock serve`` whose language model repeats its prompt."""
    folder = tmp_path_factory.mktemp("readme")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    put_model(folder / "models", "summary", README)
    put_model(folder / "models", "guided", GUIDE)
    (folder / "flows").mkdir()
    (folder / "flows" / "approval.py").write_text(APPROVAL)
    app_skeleton.write("hello", folder / "apps")
    (folder / "flows" / "report.py").write_text(example("python", "@flow"))
    async with _language_model() as model:
        environment = clean_environment(
            HTTP_PORT=str(port),
            WORKER_HTTP_PORT=str(free_port()),
            PENSTOCK_DATA_DIR=str(folder / "data"),
            PENSTOCK_MODELS_DIR=str(folder / "models"),
            PENSTOCK_FLOWS_DIR=str(folder / "flows"),
            PENSTOCK_APPS_DIR=str(folder / "apps"),
            PENSTOCK_FETCH_NETWORKS="127.0.0.0/8",
            LLM_BASE_URL=model,
        )
        async with penstock("serve", environment=environment, folder=folder) as serve:
            await until(lambda: _ready(address), "serve is ready", seconds=30)
            yield address
            serve.terminate()
            await serve.wait()


async def test_the_example_in_curl(address: str) -> None:
    script = example("bash", "jobs/claim").replace("http://127.0.0.1:8080", address)
    out = await _run("bash", "-euo", "pipefail", "-c", script)
    assert '"status": "completed"' in out
    assert '"text": "HELLO"' in out
    assert [line for line in out.splitlines() if line.startswith("event:")] == [
        "event: job.created",
        "event: job.started",
        "event: job.completed",
    ]


async def test_the_example_in_python(address: str) -> None:
    out = await _run(sys.executable, "-c", example("python", "client.submit").replace("http://127.0.0.1:8080", address))
    assert out == "completed {'summary': 'a penstock…'}\n"


async def test_the_model(address: str) -> None:
    call = example("bash", "models/summary/predict").replace("http://127.0.0.1:8080", address)
    assert json.loads(await _run("bash", "-c", call)) == {"summary": "a penstock…"}


async def test_the_flow(address: str) -> None:
    await until(lambda: _has_flows(address), "the flows are published")
    async with Client(address) as client:
        chapters = json.loads(re.search(r"--input '(.*?)'", example("bash", "flow run"))[1])  # type: ignore[index]  # it is there
        run = await client.start_flow("report", chapters)
        await client.signal_run(run.id, "approved", {"by": "Ada"})
        assert (await client.wait(run.id)).result == "a penstock feeds… / gates close slowly… (approved by Ada)"


async def test_the_guides_model(address: str) -> None:
    call = example("bash", "models/summary/predict", GUIDE).replace("models/summary", "models/guided")
    assert json.loads(await _run("bash", "-c", f"api={address}/api/v1\n{call}")) == {"summary": "a penstock…"}


async def test_the_examples_of_the_client_page(address: str, tmp_path: Path) -> None:
    (tmp_path / "conference.wav").write_bytes(bytes(20 * 2**20))
    await until(lambda: _has_flows(address), "the flows are published")
    await until(lambda: _has_app(address), "the app is published")
    first, *rest = re.findall(r"```python\n(.*?)```", CLIENT, re.DOTALL)
    body = textwrap.indent("\n".join(rest), " " * 8)
    program = (
        f"{first}\nasync def main():\n"
        f"    async with Client('http://127.0.0.1:8080', owner_service='docs') as client:\n{body}\n"
        "asyncio.run(main())\n"
    )
    program = f"import asyncio\n{program}".replace("http://127.0.0.1:8080", address)
    out = await _run(sys.executable, "-c", program, folder=tmp_path)
    assert "no worker has served the queue reverse/words" in out
    assert "failed bad_input" in out
    assert "{'summary': 'a penstock…'}" in out
    assert "b'RIFF'" in out
    assert "{'amount': 12, 'approved': True}" in out
    assert str(20 * 2**20) in out


def test_the_readme_names_only_files_that_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


async def _run(*command: str, folder: Path = ROOT) -> str:
    environment = clean_environment(PYTHONPATH=str(ROOT / "src"))
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, stdout=PIPE, stderr=PIPE)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def _has_flows(address: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/api/v1/flows") as response:
        return bool((await response.json())["flows"])


async def _has_app(address: str) -> bool:
    url = f"{address}/api/v1/apps/hello/health"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status == 200 and bool((await response.json())["status"] == "ok")


async def _ready(address: str) -> bool:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{address}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def _language_model() -> AsyncIterator[str]:
    async def chat(request: web.Request) -> web.Response:
        prompt = json.loads(await request.text())["messages"][-1]["content"]
        choice = {"message": {"role": "assistant", "content": f"You said: {prompt}"}}
        return web.json_response({"model": "qwen2.5-14b", "choices": [choice], "usage": {"total_tokens": 7}})

    async with running(chat) as address:
        yield f"{address}/v1"
