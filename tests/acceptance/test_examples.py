"""The examples, run as their readers run them: real processes with a real gateway."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from examples.models.digits.digits import TRAINED_ON, Digits
from penstock import Category, Client, PenstockError, Status
from penstock.supervisor.ports import free_port
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-these-tests"
SOON = timedelta(seconds=30)


@pytest.fixture(scope="module")
async def gateway(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of a running gateway that requires a token."""
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


@asynccontextmanager
async def program(*command: str, client: Client, **variables: str) -> AsyncIterator[Process]:
    """Run an example as a separate process; kill it at the end if it still runs. A failure shows what it printed."""
    environment = clean_environment(PENSTOCK_URL=client.url, AI_SERVICE_TOKEN=TOKEN, **variables)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    except BaseException as error:
        with suppress(ProcessLookupError):
            process.kill()
        output, _ = await process.communicate()
        error.add_note(f"{command} printed:\n{output.decode()}")
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@dataclass(frozen=True)
class SlowWorker:
    """A copy of ``examples/worker.sh`` whose work returns what the test writes into ``result``, a named pipe."""

    script: Path
    result: Path


@pytest.fixture
def slow_worker(tmp_path: Path) -> SlowWorker:
    """Make the copy."""
    result = tmp_path / "result"
    os.mkfifo(result)
    text = (ROOT / "examples/worker.sh").read_text()
    changed = re.sub(r"(?<=    exec )jq -ce .*", f"cat {shlex.quote(str(result))}", text)
    assert changed != text
    script = tmp_path / "worker.sh"
    script.write_text(changed)
    return SlowWorker(script, result)


async def said(process: Process) -> str:
    """Return what a program printed; it must exit with status 0."""
    output, _ = await asyncio.wait_for(process.communicate(), SOON.total_seconds())
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
class TestShellWorker:
    """``examples/worker.sh``."""

    async def test_the_worker_claims_works_and_completes(self, gateway: Client) -> None:
        jobs = [await gateway.submit("shout", "bash", {"text": text}) for text in ("hello", 'quo"te\n$(x) ü')]
        async with program("bash", "examples/worker.sh", client=gateway, MAX_JOBS="2", WORKER_ID="shell") as process:
            done = [await gateway.wait(job.id, SOON) for job in jobs]
            output = await said(process)
        assert [job.status for job in done] == [Status.COMPLETED] * 2
        assert [job.result for job in done] == [{"text": "HELLO"}, {"text": 'QUO"TE\n$(X) ü'}]
        assert done[0].worker_id == "shell"
        assert output.count("completed ") == 2
        assert TOKEN not in output

    async def test_the_worker_fails_jobs_that_it_cannot_read(self, gateway: Client) -> None:
        job = await gateway.submit("shout", "bash", {"text": 5})
        async with program("bash", "examples/worker.sh", client=gateway, MAX_JOBS="1") as process:
            done = await gateway.wait(job.id, SOON)
            await said(process)
        assert done.status is Status.FAILED
        assert done.error is not None
        assert done.error.category is Category.BAD_INPUT

    async def test_the_worker_ends_when_it_is_stopped(self, gateway: Client) -> None:
        async with program("bash", "examples/worker.sh", client=gateway) as process:
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readline(), 10)
            process.send_signal(signal.SIGTERM)
            await said(process)

    async def test_a_worker_that_is_stopped_finishes_its_job(self, gateway: Client, slow_worker: SlowWorker) -> None:
        job = await gateway.submit("shout", "bash", {})
        async with program("bash", str(slow_worker.script), client=gateway) as process:
            with slow_worker.result.open("w") as result:  # opens when the work reads it
                process.send_signal(signal.SIGTERM)
                result.write('{"text": "FINISHED"}')
            await said(process)
        done = await gateway.wait(job.id, SOON)
        assert done.result == {"text": "FINISHED"}

    async def test_the_lease_of_a_killed_worker_is_not_kept(self, gateway: Client, slow_worker: SlowWorker) -> None:
        await gateway.submit("shout", "bash", {})
        async with program("bash", str(slow_worker.script), client=gateway) as process:
            with slow_worker.result.open("w"):
                process.kill()
            # Whatever still runs of it holds its output open, the process that sends heartbeats too.
            await asyncio.wait_for(process.communicate(), 10)


class TestDigits:
    """``examples/models/digits`` and ``examples/digits``."""

    def test_the_model_reads_images_that_it_has_not_seen(self) -> None:
        """Alone and together the results are the same."""
        digits = load_digits()
        model = Digits()
        model.load()
        images = list(digits.images[TRAINED_ON:])
        found = [output["digit"] for output in model.predict_batch(images)]
        right = sum(digit == label for digit, label in zip(found, digits.target[TRAINED_ON:], strict=True))
        assert right / len(images) > 0.95
        assert [model.predict(image)["digit"] for image in images[:50]] == found[:50]

    @pytest.mark.timeout(400)
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
