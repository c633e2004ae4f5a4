"""The examples, as their readers run them: real processes against a real gateway."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from examples.digits import demo
from examples.digits.worker import MODEL_PROFILE, TASK_TYPE, TRAINED_ON, pixels, train
from penstock import Client, ErrorCategory, ExecutionError, PenstockError, Status
from penstock.jobs.job import ClaimRequest, Failure
from tests.processes import clean_environment, free_port, penstock, until

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-these-tests"
SOON = timedelta(seconds=30)


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a running gateway that wants a token."""
    folder = tmp_path_factory.mktemp("gateway")
    port = free_port()
    environment = clean_environment(
        DATABASE_URL=module_database_url, AI_SERVICE_TOKEN=TOKEN, HTTP_HOST="127.0.0.1", HTTP_PORT=str(port)
    )
    log = folder / "gateway.log"
    async with (
        penstock("gateway", environment=environment, folder=folder, log=log),
        Client(f"http://127.0.0.1:{port}", token=TOKEN, owner_service="tests") as client,
    ):

        async def answers() -> bool:
            try:
                await client.stats()
            except PenstockError:
                return False
            return True

        try:
            await until(answers, "the gateway answers", seconds=30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield client


@asynccontextmanager
async def program(*command: str, client: Client, **variables: str) -> AsyncIterator[Process]:
    """An example as a process of its own; killed at the end if it still runs."""
    environment = clean_environment(PENSTOCK_URL=client.url, AI_SERVICE_TOKEN=TOKEN, **variables)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Process) -> str:
    """What a program printed until its end, which must be in order."""
    output, _ = await asyncio.wait_for(process.communicate(), SOON.total_seconds())
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
class TestShellWorker:
    """``examples/worker.sh``."""

    async def test_it_claims_works_and_completes(self, gateway: Client) -> None:
        jobs = [await gateway.submit("shout", "bash", {"text": text}) for text in ("hello", 'quo"te\n$(x) ü')]
        async with program("bash", "examples/worker.sh", client=gateway, MAX_JOBS="2", WORKER_ID="shell") as process:
            done = [await gateway.wait(job.id, SOON) for job in jobs]
            output = await said(process)
        assert [job.status for job in done] == [Status.COMPLETED] * 2
        assert [job.result for job in done] == [{"text": "HELLO"}, {"text": 'QUO"TE\n$(X) ü'}]
        assert done[0].worker_id == "shell"
        assert output.count("completed ") == 2
        assert TOKEN not in output

    async def test_it_fails_what_it_cannot_read(self, gateway: Client) -> None:
        job = await gateway.submit("shout", "bash", {"text": 5})
        async with program("bash", "examples/worker.sh", client=gateway, MAX_JOBS="1") as process:
            done = await gateway.wait(job.id, SOON)
            await said(process)
        assert done.status is Status.FAILED
        assert done.error is not None
        assert done.error.category is ErrorCategory.BAD_INPUT

    async def test_it_ends_when_it_is_told_to(self, gateway: Client) -> None:
        async with program("bash", "examples/worker.sh", client=gateway) as process:
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readline(), 10)
            process.send_signal(signal.SIGTERM)
            await said(process)


class TestDigits:
    """``examples/digits``."""

    def test_the_model_reads_images_that_it_has_not_seen(self) -> None:
        digits = load_digits()
        assert train().score(digits.data[TRAINED_ON:], digits.target[TRAINED_ON:]) > 0.95

    async def test_bad_images_are_named(self, gateway: Client) -> None:
        inputs: tuple[dict[str, object], ...] = (
            {"image": [[0.0] * 8] * 7},
            {"image": "x"},
            {},
            {"image": [[1.0], [1.0, 2.0]]},
        )
        for number, content in enumerate(inputs):
            await gateway.submit("pixels", str(number), content)
            request = ClaimRequest(worker_id="tests", task_types=["pixels"], model_profiles=[str(number)])
            (claimed,) = await gateway.claim(request)
            problem = pixels(claimed)
            assert isinstance(problem, ExecutionError)
            assert problem.category is ErrorCategory.BAD_INPUT
            await gateway.fail(claimed.id, Failure(epoch=claimed.epoch, category=problem.category))

    async def test_the_worker_classifies_over_http_and_ends_in_order(self, gateway: Client) -> None:
        digits = load_digits()
        count = 50
        jobs = await gateway.submit_many(
            gateway.job(TASK_TYPE, MODEL_PROFILE, {"image": demo.rows(image)}) for image in digits.data[:count]
        )
        bad = await gateway.submit(TASK_TYPE, MODEL_PROFILE, {"image": []})
        async with program(sys.executable, "-m", "examples.digits.worker", client=gateway) as process:
            done = [await gateway.wait(job.id, SOON) for job in jobs]
            assert (await gateway.wait(bad.id, SOON)).status is Status.FAILED
            process.send_signal(signal.SIGTERM)
            await said(process)
        right = sum(job.result == {"digit": int(label)} for job, label in zip(done, digits.target, strict=False))
        assert right >= count - 1

    @pytest.mark.timeout(180)
    async def test_the_demonstration_succeeds_and_leaves_nothing(self, tmp_path: Path) -> None:
        environment = clean_environment(TMPDIR=str(tmp_path))
        tmp_path.chmod(0o755)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.digits.demo", cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 150)
        assert process.returncode == 0, output.decode()
        assert "1,797 of 1,797 completed" in output.decode()
        assert "1,797 of 1,797 exactly once" in output.decode()
        assert not list(tmp_path.glob("penstock-demo-*"))
