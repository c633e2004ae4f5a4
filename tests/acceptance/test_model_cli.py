"""``penstock model …`` as people and scripts use it: real processes and a real gateway with models."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from penstock.models import trial
from penstock.supervisor.ports import free_port
from penstock.supervisor.serve import is_ready
from tests.support.command_line import CommandResult, run_command, run_on_terminal
from tests.support.processes import clean_environment, penstock
from tests.support.scripted_gateways import scripted_gateway
from tests.support.waiting import until

TOKEN = "a-token-that-must-not-be-shown"
MODELS = {
    "greet": """
class Model:
    \"\"\"Greets.\"\"\"

    def predict(self, name: str, times: int = 1) -> dict[str, str]:
        print("greeting", name)
        return {"text": f"Dear {name}" * times}
""",
    "story": """
from collections.abc import Iterator

class Model:
    def predict(self, words: list[str]) -> Iterator[str]:
        for word in words:
            yield word + " "
""",
    "steps": """
from collections.abc import Iterator

class Model:
    def predict(self) -> Iterator[dict[str, object]]:
        yield {"delta": "so"}
        yield {"delta": None, "done": True}
""",
    "mirror": """
from penstock import File

class Model:
    def predict(self, file: File) -> File:
        return File(file.data[::-1], "image/x-mirrored")
""",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """The folder and the environment in which commands run."""

    folder: Path
    variables: dict[str, str]

    async def __call__(self, *arguments: str, stdin: str = "") -> CommandResult:
        return await run_command(self.folder, "model", *arguments, stdin=stdin, **self.variables)

    async def terminal(self, *arguments: str) -> str:
        return await run_on_terminal(self.folder, "model", *arguments, **self.variables)


@pytest.fixture(scope="module")
async def desk(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """Commands for a gateway with three models."""
    folder = tmp_path_factory.mktemp("cli")
    for name, code in MODELS.items():
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / f"{name}_code.py").write_text(code)
        (folder / "models" / name / "model.toml").write_text(
            f'runtime = "python"\n[python]\nclass = "{name}_code:Model"\n'
        )
    port = free_port()
    environment = clean_environment(
        DATABASE_URL=module_database_url,
        AI_SERVICE_TOKEN=TOKEN,
        HTTP_HOST="127.0.0.1",
        HTTP_PORT=str(port),
        PENSTOCK_MODELS_DIR=str(folder / "models"),
    )
    async with penstock("gateway", environment=environment, folder=folder):
        await until(lambda: is_ready("127.0.0.1", port), "the gateway is ready", seconds=30)
        yield Desk(folder, {"PENSTOCK_URL": f"http://127.0.0.1:{port}", "AI_SERVICE_TOKEN": TOKEN})


async def test_list_and_show(desk: Desk) -> None:
    """Programs get JSON, people get tables."""
    assert {model["name"] for model in (await desk("list")).json["models"]} == set(MODELS)
    assert (await desk("show", "greet")).json["description"] == "Greets."
    table = await desk.terminal("list")
    assert "greet" in table
    assert "Greets." in table
    shown = await desk.terminal("show", "greet")
    assert "takes" in shown
    assert "name, times" in shown
    assert (await desk("schema", "greet")).json["input"]["required"] == ["name"]


async def test_predict(desk: Desk) -> None:
    """The input comes from fields, a whole value or standard input; the output may go to a file."""
    assert (await desk("predict", "greet", "name=Ada", "times=2")).json == {"text": "Dear AdaDear Ada"}
    assert (await desk("predict", "greet", "--input", '{"name": "Eve"}')).json == {"text": "Dear Eve"}
    assert (await desk("predict", "greet", "-i", "-", "times=1", stdin='{"name": "Bob"}')).json == {"text": "Dear Bob"}
    assert (await desk("predict", "greet", "name=NaN")).json == {"text": "Dear NaN"}
    assert (await desk("predict", "greet", "name=Ada", "-o", "answer.json")).status == 0
    assert json.loads((desk.folder / "answer.json").read_text()) == {"text": "Dear Ada"}


async def test_media(desk: Desk) -> None:
    """Media are read from a file and written to a file or a pipe, never to a terminal."""
    (desk.folder / "a.img").write_bytes(b"abc")
    done = await desk("predict", "mirror", "--file", "file=a.img", "--output", "b.img")
    assert done.status == 0, done.err
    assert (desk.folder / "b.img").read_bytes() == b"cba"
    assert (await desk("predict", "mirror", "-f", "file=a.img")).out == "cba"
    with pytest.raises(AssertionError, match="--output: the output is 3 bytes of image/x-mirrored"):  # exit status 2
        await desk.terminal("predict", "mirror", "-f", "file=a.img")


async def test_stream(desk: Desk) -> None:
    """Each chunk is a line of JSON; a terminal shows the text as it arrives."""
    lines = (await desk("stream", "story", 'words=["once", "upon"]')).out.splitlines()
    assert [json.loads(line) for line in lines] == ["once ", "upon "]
    assert "once upon" in await desk.terminal("stream", "story", 'words=["once", "upon"]')
    assert (await desk.terminal("stream", "steps")).splitlines() == ["so", '{"delta": null, "done": true}']


async def chat(request: web.Request) -> web.StreamResponse:
    """Respond as an OpenAI-compatible server that streams two words."""
    assert (await request.json())["stream"] is True
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for delta in ({"content": "Good "}, {"content": "day"}):
        part = {"model": "tiny", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        await response.write(b"data: " + json.dumps(part).encode() + b"\n\n")
    end = {"model": "tiny", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    await response.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")
    return response


async def test_a_streamed_chat(desk: Desk) -> None:
    """People see the words once; programs get the whole output after the chunks."""
    async with scripted_gateway(chat) as server:
        options = ("--runtime", "openai", "--base-url", f"{server.url}/v1", "--model", "tiny")
        assert (await desk("add", "chat", *options)).status == 0
        assert (await desk.terminal("stream", "chat", "user=hello")).splitlines() == ["Good day"]
        lines = [json.loads(line) for line in (await desk("stream", "chat", "user=hello")).out.splitlines()]
        assert lines[:-1] == [{"delta": "Good "}, {"delta": "day"}]
        assert lines[-1]["content"] == "Good day"
        assert (await desk("remove", "chat")).status == 0


async def test_logs(desk: Desk) -> None:
    """Logs are read, filtered, followed and cleared."""
    await desk("predict", "greet", "name=Logged")
    assert [line["message"] for line in (await desk("logs", "greet", "-n", "1")).json] == ["greeting Logged"]
    assert (await desk("logs", "greet", "--level", "error", "--since", "1h")).json == []
    assert "greeting Logged" in await desk.terminal("logs", "greet", "-n", "1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock", "model", "logs", "greet", "--follow", "-n", "1"),
        env=clean_environment(**desk.variables),
        cwd=desk.folder,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert json.loads(await process.stdout.readline())["message"] == "greeting Logged"
        await desk("predict", "greet", "name=Later")
        assert json.loads(await process.stdout.readline())["message"] == "greeting Later"
    process.kill()
    await process.wait()
    assert "lines deleted" in (await desk("clean-logs", "greet")).out
    assert (await desk("logs", "greet")).json == []


async def test_add_reload_remove(desk: Desk) -> None:
    """Models of another server are added by options or a manifest, those of the gateway's folder by name."""
    url = desk.variables["PENSTOCK_URL"] + "/post/predict?id=greet"  # our own model, by its other interface
    added = await desk("add", "again", "--runtime", "http", "--url", url)
    assert added.json["source"] == "api"
    openai = ("--runtime", "openai", "--base-url", "http://127.0.0.1:1/v1", "--model", "tiny", "--task", "embeddings")
    assert (await desk("add", "vectors", *openai)).json["options"]["model"] == "tiny"
    assert (await desk("schema", "vectors")).json["input"]["required"] == ["input"]
    assert (await desk("add", "vectors", *openai[:-1], "chat")).status == 1
    replaced = await desk("add", "vectors", *openai[:-1], "chat", "--replace")
    assert replaced.json["options"]["task"] == "chat"
    (desk.folder / "third.toml").write_text(f'runtime = "http"\n[http]\nurl = "{url}"\n')
    assert (await desk("add", "--manifest", "third.toml")).json["name"] == "third"
    assert (await desk("reload", "third")).json["name"] == "third"
    assert (await desk("remove", "third")).status == 0
    assert (await desk("remove", "greet")).status == 0
    assert (await desk("add", "greet")).json["source"] == "folder"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        *(
            ((command, "nothing"), 1, "there is no model 'nothing'")
            for command in ("show", "schema", "predict", "stream", "logs", "clean-logs", "reload", "remove")
        ),
        (("add", "nothing"), 1, "there is no manifest of a model 'nothing'"),
        (("logs", "nothing", "--follow"), 1, "there is no model 'nothing'"),
        (("predict", "greet", "name=5"), 1, "name: "),
        (("stream", "story", "words=[1]"), 1, "words[0]: "),
        (("predict", "greet", "--input", "[]"), 1, "object"),
        (("predict", "greet", "name=Ada", "-o", "no/where.json"), 2, "there is no folder no"),
        (("predict", "greet", "name=Ada", "-o", "models"), 2, "models: Is a directory"),
        (("predict", "greet", "name=Ada", "mark"), 2, "KEY=VALUE"),
        (("predict", "mirror", "-f", "file=missing"), 2, "there is no file missing"),
        (("add", "x", "--runtime", "python"), 1, "runtime: over HTTP only http and openai"),
        (("add", "x", "--url", "http://h"), 2, "requires --runtime"),
        (("logs", "greet", "--since", "yesterday"), 2, "must be a time"),
    ],
)
async def test_mistakes_are_reported_in_a_line(desk: Desk, arguments: tuple[str, ...], status: int, said: str) -> None:
    """The line says what was wrong, without a traceback."""
    done = await desk(*arguments)
    assert done.status == status
    assert said in " ".join(done.err.replace("│", " ").split())
    assert TOKEN not in done.err


@pytest.mark.parametrize("arguments", [("list",), ("predict", "greet"), ("stream", "greet"), ("logs", "greet", "-f")])
async def test_an_unreachable_gateway_is_reported_in_one_clear_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The line has the gateway's address."""
    url = f"http://127.0.0.1:{free_port()}"
    done = await run_command(tmp_path, "model", *arguments, PENSTOCK_URL=url)
    assert (done.status, done.out) == (1, "")
    assert url in done.err
    assert len(done.err.strip().splitlines()) == 1


async def test_help_shows_how_commands_are_used(tmp_path: Path) -> None:
    """Every command that takes arguments has an example."""
    commands = ("show", "schema", "add", "remove", "reload", "predict", "stream", "logs", "new", "test")
    outputs = await asyncio.gather(*(run_command(tmp_path, "model", command, "--help") for command in commands))
    for command, done in zip(commands, outputs, strict=True):
        assert f"\n  penstock model {command} " in done.out


async def test_a_new_model_may_have_any_name(tmp_path: Path) -> None:
    """A name with a meaning in Python or in the generated code is allowed."""
    for name in ("none", "bad-input"):
        assert (await run_command(tmp_path, "model", "new", name)).status == 0
        assert (await run_command(tmp_path, "model", "test", name)).json["sound"]
    for name in ("../up", "", "1st"):
        assert (await run_command(tmp_path, "model", "new", name)).status == 1


@pytest.mark.parametrize("runtime", ["python", "subprocess"])
async def test_a_new_model_works_as_generated(tmp_path: Path, runtime: str) -> None:
    """The trial of a new model succeeds, and so does its own test."""
    made = await run_command(tmp_path, "model", "new", "my-model", "--runtime", runtime)
    assert made.status == 0, made.err
    report = (await run_command(tmp_path, "model", "test", "my-model")).json
    assert report["sound"]
    assert report["calls"][0]["output"] == {"summary": "a penstock…"}
    own = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "my-model"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await own.wait() == 0
    again = await run_command(tmp_path, "model", "new", "my-model")
    assert (again.status, again.err) == (1, "penstock: my-model exists already\n")


async def test_a_trial_finds_what_is_wrong(tmp_path: Path) -> None:
    """Wrong outputs, batches with other results, models that do not load, manifests without examples."""

    async def tried(code: str, more: str = "") -> tuple[int, str]:
        (tmp_path / "model.py").write_text(code)
        (tmp_path / "model.toml").write_text(
            f'name = "m"\nruntime = "python"\n{more}\n[python]\nclass = "model:Model"\n'
        )
        done = await run_command(tmp_path, "model", "test", "model.toml")
        return done.status, done.out

    example = "examples = [{ n = 1 }, { n = 2 }]\nbatching = { max_size = 4 }"
    good = "class Model:\n    def predict(self, n: int) -> int:\n        return n\n"
    assert (await tried(good, example))[0] == 0
    status, out = await tried(good.replace("return n", "return 'x'"), example)
    assert (status, "int" in out) == (1, True)
    batch = "\n    def predict_batch(self, n: list[int]) -> list[int]:\n        return [max(n)] * len(n)\n"
    status, out = await tried(good + batch, example)
    assert (status, "together with others" in out) == (1, True)
    status, out = await tried(good + "\n    def load(self):\n        raise OSError('no weights')\n", example)
    assert (status, "no weights" in out) == (1, True)
    status, out = await tried(good)
    assert (status, "nothing to try" in out) == (1, True)
    status, out = await tried(good.replace("n: int", "n: int = 1"))
    assert (status, json.loads(out)["calls"][0]["input"]) == (0, {"n": 1}), "defaults are an example"
    right = batch.replace("[max(n)] * len(n)", "n")
    status, out = await tried(good + right, example)
    assert (status, "32 calls: " in out, "batches of" in out) == (0, True, True)


async def test_a_trial_gives_the_model_the_environment_of_a_gateway(tmp_path: Path) -> None:
    """The environment lacks our own settings."""
    (tmp_path / "check.toml").write_text('runtime = "python"\nexamples = [{}]\n[python]\nclass = "check:Model"\n')
    (tmp_path / "check.py").write_text(
        "import os\nclass Model:\n    def predict(self) -> list[bool]:\n"
        "        return [name in os.environ for name in ('AI_SERVICE_TOKEN', 'DATABASE_URL', 'OF_THE_MODEL')]\n"
    )
    variables = {"AI_SERVICE_TOKEN": TOKEN, "DATABASE_URL": "postgresql://x/y", "OF_THE_MODEL": "1"}
    done = await run_command(tmp_path, "model", "test", "check.toml", **variables)
    assert done.json["calls"][0]["output"] == [False, False, True]


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ({"a": [1, "x", None]}, {"a": [1, "x", None]}, True),
        (0.5, 0.50000001, True),
        (1.0, 1, True),
        (1, 1.00000001, True),
        (0.5, 0.51, False),
        (1, 2, False),
        (1, True, False),
        (False, 0.0, False),
        ("a", "b", False),
        ([1], [1, 1], False),
        ({"a": 1}, {"b": 1}, False),
    ],
)
def test_when_two_outputs_are_the_same(left: object, right: object, equal: bool) -> None:
    """Outputs are the same if they differ in rounding only."""
    assert trial.same(left, right) is trial.same(right, left) is equal
