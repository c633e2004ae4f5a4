"""The real process ``penstock worker``: the built-in chat executor, the health endpoints, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from msgspec import Raw

from penstock.failures import Category
from penstock.jobs.job import Job
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from penstock.tenants.principal import DEFAULT_TENANT
from tests.support.http_servers import running
from tests.support.jobs import submission
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

KEY = "sk-of-these-tests"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[JobService]:
    database = Database(database_url, application_name="penstock-test")
    service = JobService(database)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await database.close()


class Provider:
    """An OpenAI-compatible endpoint whose responses wait until they are released."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def respond(self, request: web.Request) -> web.Response:
        self.called.set()
        await self.go.wait()
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        question = (await request.json())["messages"][-1]["content"]
        message = {"role": "assistant", "content": f"You said {question}"}
        return web.json_response({"model": "served", "choices": [{"message": message}], "usage": {"total_tokens": 2}})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with running(self.respond) as address:
            yield f"{address}/v1"


class RunningWorker:
    """A running ``penstock worker`` and its health endpoints."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    async def status_of(self, path: str) -> int:
        """Return the HTTP status of one of its endpoints; 0 while it does not listen."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
                return response.status
        except aiohttp.ClientError:
            return 0

    async def describe(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(self.url + "/worker/status") as response:
            status: dict[str, Any] = await response.json()
            return status

    async def is_ready(self) -> bool:
        return await self.status_of("/readyz") == 200

    async def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 20)


@asynccontextmanager
async def worker(url: str, folder: Path, **variables: str) -> AsyncIterator[RunningWorker]:
    port = free_port()
    log = folder / "worker.log"
    environment = clean_environment(
        DATABASE_URL=url, WORKER_ID="chat-1", WORKER_HTTP_HOST="127.0.0.1", WORKER_HTTP_PORT=str(port), **variables
    )
    async with penstock("worker", environment=environment, folder=folder, log=log) as process:
        running = RunningWorker(process, port, log)
        try:
            await until(running.is_ready, "the worker is ready", seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield running


async def submit_chat(service: JobService, task_type: str, text: str, profile: str = "qwen") -> Job:
    content = Raw(msgspec.json.encode({"system": "Repeat.", "user": text, "call_id": 5}))
    request = submission(task_type=task_type, model_profile=profile, input=content, max_attempts=1)
    return (await service.of(DEFAULT_TENANT).submit(request)).job


async def finished(service: JobService, job: Job) -> Job:
    return await service.of(DEFAULT_TENANT).wait(job.id, timedelta(seconds=15))


async def test_a_worker_runs_chat_jobs_of_its_model(service: JobService, database_url: str, tmp_path: Path) -> None:
    provider = Provider()
    async with provider.listening() as base:
        other = await submit_chat(service, "llm_chat", "not mine", "another-model")
        async with worker(database_url, tmp_path, LLM_BASE_URL=base, LLM_API_KEY=KEY, LLM_MODEL="qwen") as running:
            for task_type in ("llm_chat", "chat_completion", "call_analysis"):
                job = await finished(service, await submit_chat(service, task_type, task_type))
                assert job.status is Status.COMPLETED, job.error
                assert job.worker_id == "chat-1"
                result = msgspec.json.decode(job.result or b"")
                assert result["content"] == f"You said {task_type}"
                assert (result["model"], result["usage"]) == ("served", {"total_tokens": 2})
                assert result["duration_ms"] >= 0
            status = await running.describe()
            assert (status["worker_id"], status["state"]) == ("chat-1", "running")
            assert status["outcomes"] == {"completed": 3}
            assert await running.status_of("/healthz") == 200
            assert await running.status_of("/metrics") == 200  # without AI_SERVICE_TOKEN
            assert await running.end() == 0
        assert KEY not in running.log.read_text()
    assert (await service.of(DEFAULT_TENANT).get(other.id)).status is Status.PENDING


async def test_a_wrong_key_is_the_providers_error_and_is_not_shown(
    service: JobService, database_url: str, tmp_path: Path
) -> None:
    async with (
        Provider().listening() as base,
        worker(database_url, tmp_path, LLM_BASE_URL=base, LLM_API_KEY="sk-wrong", LLM_MODEL="qwen") as running,
    ):
        job = await finished(service, await submit_chat(service, "llm_chat", "hi"))
        assert await running.end() == 0
    assert job.error is not None
    assert job.error.category is Category.PROVIDER_ERROR
    assert "LLM_API_KEY" in job.error.message
    assert "sk-wrong" not in job.error.message + running.log.read_text()


async def test_on_sigterm_it_finishes_running_jobs(service: JobService, database_url: str, tmp_path: Path) -> None:
    provider = Provider()
    provider.go.clear()
    async with (
        provider.listening() as base,
        worker(database_url, tmp_path, LLM_BASE_URL=base, LLM_API_KEY=KEY, LLM_MODEL="qwen") as running,
    ):
        job = await submit_chat(service, "llm_chat", "slow")
        await asyncio.wait_for(provider.called.wait(), 10)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: "worker_draining" in running.log.read_text(), "it drains")
        provider.go.set()
        assert await asyncio.wait_for(running.process.wait(), 20) == 0
    assert (await finished(service, job)).status is Status.COMPLETED


async def test_on_sigterm_it_hands_back_jobs_that_take_too_long(
    service: JobService, database_url: str, tmp_path: Path
) -> None:
    provider = Provider()
    provider.go.clear()
    options = {"LLM_API_KEY": KEY, "LLM_MODEL": "qwen", "PENSTOCK_SHUTDOWN_GRACE": "100ms"}
    async with provider.listening() as base, worker(database_url, tmp_path, LLM_BASE_URL=base, **options) as running:
        job = await submit_chat(service, "llm_chat", "slow")
        await asyncio.wait_for(provider.called.wait(), 10)
        assert await running.end() == 0
    back = await service.of(DEFAULT_TENANT).get(job.id)
    assert back.status is Status.PENDING
    assert [attempt.error.category for attempt in back.attempts] == [Category.SHUTDOWN]


async def test_a_worker_without_an_endpoint_reports_that_and_stays_healthy(database_url: str, tmp_path: Path) -> None:
    async with worker(database_url, tmp_path) as running:
        assert "nothing_to_run" in running.log.read_text()
        assert await running.status_of("/healthz") == 200
        assert await running.end() == 0


async def test_a_port_in_use_is_reported_by_its_variable(database_url: str, tmp_path: Path) -> None:
    async with worker(database_url, tmp_path) as first:
        port = first.url.rpartition(":")[2]
        environment = clean_environment(DATABASE_URL=database_url, WORKER_HTTP_HOST="127.0.0.1", WORKER_HTTP_PORT=port)
        log = tmp_path / "second.log"
        async with penstock("worker", environment=environment, folder=tmp_path, log=log) as second:
            assert await asyncio.wait_for(second.wait(), 20) == 2
        assert "WORKER_HTTP_PORT: cannot listen on 127.0.0.1" in log.read_text()
