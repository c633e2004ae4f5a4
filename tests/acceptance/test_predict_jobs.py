"""Jobs that run on models: through the gateway that hosts them, and by a worker that hosts them itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from penstock import Category, Client, Status
from penstock.errors import InvalidInput, PenstockError
from penstock.supervisor.ports import free_port
from tests.support.databases import open_database, query
from tests.support.http_servers import responding, serving
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

SOON = timedelta(seconds=90)  # a limit against hanging: a worker and its models may only be starting

COUNTING = '''
from collections.abc import Iterator
from penstock import Context

class Counting:
    """Counts to n."""

    def predict(self, n: int, context: Context) -> Iterator[int]:
        for number in range(n):
            context.progress(number / n)
            print("at", number)
            yield number
'''
ADDING = '''
import time
from typing import Annotated
from pydantic import Field

class Adding:
    """Adds one."""

    def predict(self, n: Annotated[int, Field(ge=0)]) -> dict[str, int]:
        return self.predict_batch([n])[0]

    def predict_batch(self, numbers: list[int]) -> list[dict[str, int]]:
        time.sleep(0.05)
        return [{"sum": n + 1, "together": len(numbers)} for n in numbers]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a folder with two models."""
    models = tmp_path / "models"
    for name, code, more in (("counting", COUNTING, ""), ("adding", ADDING, "[batching]\nmax_size = 16\n")):
        (models / name).mkdir(parents=True)
        (models / name / f"{name}_model.py").write_text(code)
        manifest = f'runtime = "python"\n[python]\nclass = "{name}_model:{name.capitalize()}"\n{more}'
        (models / name / "model.toml").write_text(manifest)
    return models


@asynccontextmanager
async def served(url: str, folder: Path, *, by: str) -> AsyncIterator[Client]:
    """Run a gateway and a worker; ``by`` says which of them hosts the models."""
    port = free_port()
    shared = {
        "DATABASE_URL": url,
        "AI_SERVICE_TOKEN": "these-tests",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "WORKER_HTTP_PORT": "0",
        "WORKER_CLAIM_LIMIT": "32",  # a model that batches gets its batches from here
        "WORKER_POLL_INTERVAL": "100ms",
    }
    gateway_alone = {"PENSTOCK_MODELS_DIR": str(folder)} if by == "gateway" else {}
    worker_alone = (
        {"PENSTOCK_MODELS_DIR": str(folder)} if by == "worker" else {"PENSTOCK_MODELS_URL": f"http://127.0.0.1:{port}"}
    )
    log = folder.parent / "log"
    async with (
        penstock("gateway", environment=clean_environment(**shared, **gateway_alone), folder=folder.parent, log=log),
        penstock("worker", environment=clean_environment(**shared, **worker_alone), folder=folder.parent, log=log),
        Client(f"http://127.0.0.1:{port}", token="these-tests", owner_service="tests") as client,
    ):

        async def responds() -> bool:
            try:
                await client.stats()
            except PenstockError:
                return False
            return True

        try:
            await until(responds, "the gateway responds", seconds=30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield client


@pytest.mark.parametrize("by", ["gateway", "worker"])
async def test_jobs_run_on_models(module_database_url: str, folder: Path, by: str) -> None:
    """Results are stored, calls are batched, and streamed chunks and printed lines are the job's events."""
    async with served(module_database_url, folder, by=by) as client:
        counting = await client.submit("predict", "counting", {"n": 3})
        assert (await client.wait(counting.id, SOON)).result == [0, 1, 2]
        events = [event async for event in client.events(counting.id)]
        chunks = [chunk for event in events if event.type == "job.output" for chunk in event.data["chunks"]]
        lines = [line["message"] for event in events if event.type == "job.log" for line in event.data["lines"]]
        assert chunks == [0, 1, 2]
        assert lines == ["at 0", "at 1", "at 2"]
        assert events[-1].type == "job.completed"

        jobs = await client.submit_many(client.job("predict", "adding", {"n": n}) for n in range(40))
        done = [await client.wait(job.id, SOON) for job in jobs]
        results = [job.result for job in done]
        assert [result["sum"] for result in results if result] == list(range(1, 41))
        assert max(result["together"] for result in results if result) > 4


@pytest.mark.parametrize("by", ["gateway", "worker"])
async def test_jobs_take_uploads(module_database_url: str, folder: Path, by: str) -> None:
    """Files may have any size, whereas a job's input itself may have 1 MiB."""
    (folder / "weighing").mkdir()
    (folder / "weighing" / "weighing_model.py").write_text(
        "from penstock import File\n\nclass Weighing:\n    def predict(self, file: File) -> int:\n"
        "        return len(file.data)\n"
    )
    (folder / "weighing" / "model.toml").write_text('runtime = "python"\n[python]\nclass = "weighing_model:Weighing"\n')
    heavy = folder.parent / "heavy.bin"
    heavy.write_bytes(bytes(3_000_000))
    async with served(module_database_url, folder, by=by) as client:
        blob = await client.upload(heavy)
        job = await client.submit("predict", "weighing", {"file": f"blob:{blob.id}"})
        assert (await client.wait(job.id, SOON)).result == 3_000_000


@pytest.mark.parametrize("by", ["gateway", "worker"])
async def test_an_input_that_the_model_refuses_ends_as_bad_input(
    module_database_url: str, folder: Path, by: str
) -> None:
    """It ends at submission if the gateway knows the schema, and otherwise when it runs, without a retry."""
    async with served(module_database_url, folder, by=by) as client:
        assert (await client.wait((await client.submit("predict", "adding", {"n": 1})).id, SOON)).result
        if by == "gateway":
            with pytest.raises(InvalidInput, match=r"input\.n"):
                await client.submit("predict", "adding", {"n": -1})
            return
        job = await client.wait((await client.submit("predict", "adding", {"n": -1})).id, SOON)
        assert job.status is Status.FAILED
        assert job.error is not None
        assert job.error.category is Category.BAD_INPUT
        assert "input.n" in job.error.message
        assert job.attempt == 1


async def test_a_model_registered_over_http_runs_where_workers_host_models(
    module_database_url: str, folder: Path
) -> None:
    """They also poll the table and pick up replacements."""
    async with (
        serving(responding({"echo": 7})) as elsewhere,
        served(module_database_url, folder, by="worker") as client,
    ):
        await client.add_model({"name": "far", "runtime": "http", "http": {"url": elsewhere.address}})
        job = await client.submit("predict", "far", {"n": 7})
        assert (await client.wait(job.id, SOON)).result == {"echo": 7}
        assert elsewhere.json == {"n": 7}
        manifest = {"name": "far", "runtime": "http", "http": {"url": elsewhere.address, "path": "/second"}}
        await client.add_model(manifest, replace=True)

        async def taken_up() -> bool:
            await client.wait((await client.submit("predict", "far", {"n": 8})).id, SOON)
            return elsewhere.paths[-1] == "/second"

        await until(taken_up, "the worker calls the new path")


@pytest.mark.parametrize("by", ["gateway", "worker"])
async def test_a_profile_names_a_model_beside_servers(module_database_url: str, folder: Path, by: str) -> None:
    """A chat job runs on a model of the runtime openai, through the process that hosts it, and its usage is counted."""
    completion = {
        "model": "served",
        "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    async with serving(responding(completion)) as server:
        (folder / "local.toml").write_text(
            f'runtime = "openai"\n[openai]\nbase_url = "{server.address}/v1"\nmodel = "qwen"\n'
        )
        (folder.parent / "profiles.toml").write_text(
            '[providers.ours]\nkind = "model"\nmodel = "local"\n'
            f'[profiles.helper-{by}]\nproviders = ["ours"]\ndefaults = {{ max_tokens = 5 }}\n'
        )
        async with served(module_database_url, folder, by=by) as client:
            job = await client.submit("llm_chat", f"helper-{by}", {"user": "Hi"})
            done = await client.wait(job.id, SOON)
            assert done.status is Status.COMPLETED, done.error
            assert isinstance(done.result, dict)
            assert (done.result["content"], done.result["model"], done.result["provider"]) == (
                "Hello",
                "served",
                "ours",
            )
            assert (server.paths, server.json["max_tokens"]) == (["/v1/chat/completions"], 5)
            status = await client.providers_status()
            ours = next(one for one in status["providers"] if one["name"] == "ours")
            assert (ours["kind"], ours["model"]) == ("model", "local")
            assert ours["reachable"] is (True if by == "gateway" else None), (
                "the gateway does not know a worker's models"
            )


@pytest.mark.parametrize("by", ["gateway", "worker"])
async def test_large_media_of_results_are_kept_as_files(module_database_url: str, folder: Path, by: str) -> None:
    """Their objects are below the job and its epoch; small ones stay in the result."""
    (folder / "painting").mkdir()
    (folder / "painting" / "painting_model.py").write_text(
        "from typing import Any\nfrom penstock import File, context\n\nclass Painting:\n"
        "    def predict(self, n: int) -> dict[str, Any]:\n"
        "        files = [File(bytes([7]) * size, 'image/png') for size in (10, n, 300_000)]\n"
        "        (context().folder / 'film.mp4').write_bytes(bytes([7]) * n)\n"
        "        film = File.at(context().folder / 'film.mp4')\n"
        "        return {'all': files, 'film': film, 'text': 'data:,x'}\n"
    )
    (folder / "painting" / "model.toml").write_text('runtime = "python"\n[python]\nclass = "painting_model:Painting"\n')
    async with served(module_database_url, folder, by=by) as client:
        job = await client.wait((await client.submit("predict", "painting", {"n": 1_500_000})).id, SOON)
        assert isinstance(job.result, dict), job.error
        small, *large = job.result["all"]
        assert small.startswith("data:image/png;base64,")
        assert job.result["text"] == "data:,x"
        for name, size in zip(large, (1_500_000, 300_000), strict=True):
            file = await client.download(name.removeprefix("blob:"))
            assert (file.data, file.media_type) == (bytes([7]) * size, "image/png")
        film = await client.download(job.result["film"].removeprefix("blob:"))
        assert (film.data, film.media_type, film.name) == (bytes([7]) * 1_500_000, "video/mp4", "film.mp4")
    async with open_database(module_database_url) as database:
        keys = await query(database, "SELECT key FROM blob WHERE key LIKE $1 ORDER BY key", f"1/{job.id}/%")
    assert [key.split("/")[1] for (key,) in keys] == [str(job.id)] * 3
    assert [key.split("/")[3] for (key,) in keys] == ["0.png", "1.png", "file0.mp4"]
    assert all(key.split("/")[2].isdigit() for (key,) in keys)
