"""The examples in the guide to callbacks work as written."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
import textwrap
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.client import Client
from penstock.supervisor.ports import free_port
from tests.support.processes import PENSTOCK, clean_environment, penstock
from tests.support.waiting import succeeds, until, within

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "callbacks.md").read_text()
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def examples(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return found


@dataclass
class Serve:
    """A running ``penstock serve``, and the port of the receiver."""

    address: str
    environment: dict[str, str]
    folder: Path
    port: int

    async def run(self, script: str) -> str:
        """Run a shell script with ``penstock`` on the path."""
        prelude = f'penstock() {{ {shlex.join(PENSTOCK)} "$@"; }}\napi={self.address}/api/v1\nSECRET={SECRET}\n'
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", prelude + self.placed(script),
            env=self.environment, cwd=self.folder, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, errors = await within(process.communicate(), 60)
        assert process.returncode == 0, errors.decode()
        return out.decode()

    def placed(self, example: str) -> str:
        return example.replace("127.0.0.1:9000", f"127.0.0.1:{self.port}").replace("9000", str(self.port))


@pytest.fixture(scope="module")
async def serve(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serve]:
    folder = tmp_path_factory.mktemp("guide")
    port = free_port()
    environment = clean_environment(
        HTTP_PORT=str(port),
        WORKER_HTTP_PORT=str(free_port()),
        PENSTOCK_URL=f"http://127.0.0.1:{port}",
        PENSTOCK_DATA_DIR=str(folder / "data"),
        PENSTOCK_FETCH_NETWORKS="127.0.0.0/8",
        PYTHONPATH=str(ROOT / "src"),
    )
    async with penstock("serve", environment=environment, folder=folder) as process:
        found = Serve(f"http://127.0.0.1:{port}", environment, folder, free_port())

        async def ready() -> bool:
            async with Client(found.address) as client:
                try:
                    await client.identity()
                except Exception:  # noqa: BLE001 - it is not ready yet
                    return False
                return True

        await until(ready, "serve is ready")
        yield found
        process.terminate()
        await process.wait()


async def test_the_guide(serve: Serve) -> None:
    receiver, python = examples("python")
    add, test, curl, dead, managing = examples("sh")
    added = json.loads(await serve.run(add))
    log = serve.folder / "received"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", serve.placed(receiver),
            env=serve.environment | {"SECRET": added["secret"]}, stdout=out, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await within(_listening(serve.port), 30)
            delivery = json.loads(await serve.run(test.replace("ID", added["id"])))
            assert (delivery["type"], delivery["status"]) == ("callback.test", "delivered")
            assert log.read_text().startswith(f"callback.test {added['id']}")
            await serve.run(dead.replace("ID", added["id"]))
            await serve.run(managing.replace("ID", added["id"]))
        finally:
            process.kill()
            await process.wait()
    await _jobs_call_back(serve, receiver, curl, python)


async def _jobs_call_back(serve: Serve, receiver: str, curl: str, python: str) -> None:
    """Run the examples of jobs, whose callbacks have a secret of their own."""
    log = serve.folder / "received by jobs"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", serve.placed(receiver),
            env=serve.environment | {"SECRET": SECRET}, stdout=out, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await within(_listening(serve.port), 30)
            job = json.loads(await serve.run(curl))
            imports, _, calls = serve.placed(python).partition("\n\n")
            program = (
                f"import asyncio\nfrom penstock import Client\n{imports}\nsecret = '{SECRET}'\nasync def main():\n"
            )
            program += f"    async with Client('{serve.address}', owner_service='docs') as client:\n"
            program += textwrap.indent(calls, " " * 8) + "\nasyncio.run(main())\n"
            await serve.run(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}")
            async with Client(serve.address) as client:
                for claimed in await client.claim("worker", limit=2, task_types=["shout"]):
                    await client.complete(claimed.id, claimed.epoch, {"text": "HELLO"})
            await until(lambda: log.read_text().count("job.completed") == 2, "both jobs call back")
        finally:
            process.kill()
            await process.wait()
    lines = log.read_text().splitlines()
    assert f"job.completed {job['id']} {{'text': 'HELLO'}}" in lines
    assert [line.split()[0] for line in lines if job["id"] not in line] == [
        "job.created", "job.started", "job.completed",
    ]  # fmt: skip


async def _listening(port: int) -> None:
    _, writer = await succeeds(lambda: asyncio.open_connection("127.0.0.1", port), unless=OSError)
    writer.close()
