"""The real process ``penstock sidecar``: requests with and without its token, and secrets that it must not reveal."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDictProxy

from penstock.sidecar.telemetry import Report
from tests.support.docker import Docker, listed, usage
from tests.support.http_servers import closed_port, hanging, responding, sending, serving
from tests.support.nvml import build_nvml
from tests.support.processes import clean_environment, penstock
from tests.support.vllm_metrics import metrics
from tests.support.waiting import until

TOKEN = "token-of-these-sidecars"
SECRETS = (TOKEN, "vllm-user", "vllm-pass", "whisper-user", "whisper-pass", "secret-of-a")


class Sidecar:
    """A running sidecar."""

    def __init__(self, process: Process, url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.responses: list[str] = []  # the head and body of every response

    async def fetch(
        self, path: str = "/status", *, authorization: str | None = f"Bearer {TOKEN}", method: str = "GET"
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, headers=headers, allow_redirects=False) as response,
        ):
            body = await response.read()
            self.responses.append(f"{response.raw_headers} {body.decode()}")
            return response.status, response.headers, body

    async def report(self) -> Report:
        status, _, body = await self.fetch()
        assert status == 200, body
        return msgspec.json.decode(body, type=Report)

    async def code(self, *arguments: Any, **options: Any) -> tuple[int, str]:
        """Return the status and code of a problem."""
        status, headers, body = await self.fetch(*arguments, **options)
        assert headers["Content-Type"] == "application/problem+json"
        problem = msgspec.json.decode(body)
        assert problem["status"] == status
        return status, problem["code"]

    async def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 20)


def started_at(log: Path) -> int | None:
    """Return the port that a sidecar logs."""
    for line in log.read_bytes().splitlines():
        if b"sidecar_started" in line:
            port: int = msgspec.json.decode(line)["port"]
            return port
    return None


@asynccontextmanager
async def sidecar(folder: Path, **variables: str) -> AsyncIterator[Sidecar]:
    log = folder / "sidecar.log"
    environment = clean_environment(
        **{
            "INFRA_SIDECAR_TOKEN": TOKEN,
            "SIDECAR_HTTP_HOST": "127.0.0.1",
            "SIDECAR_HTTP_PORT": "0",
            "SIDECAR_INTERVAL": "100ms",
            "PENSTOCK_LOG_LEVEL": "debug",
            **variables,
        }
    )
    async with penstock("sidecar", environment=environment, folder=folder, log=log) as process:
        try:
            await until(lambda: started_at(log) is not None, "the sidecar listens", seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()}") from None
        yield Sidecar(process, f"http://127.0.0.1:{started_at(log)}", log)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


async def test_a_sidecar_reports_every_source_and_no_secret(library: Path, tmp_path: Path) -> None:
    docker = Docker()
    docker.containers = [listed("vllm"), listed("whisperx", Status="Up 1 second (health: starting)")]
    docker.stats |= {"vllm": usage(container=1, machine=1), "whisperx": usage(container=1, machine=1)}
    async with (
        docker.listening() as socket,
        serving(sending(metrics(), "text/plain")) as vllm,
        serving(responding({}, 500)) as whisperx,
        sidecar(
            tmp_path,
            LD_LIBRARY_PATH=str(library),
            FAKE_NVML=str(tmp_path),
            SIDECAR_DOCKER_SOCKET=str(socket),
            SIDECAR_VLLM_URLS=f"{vllm.address.replace('://', '://vllm-user:vllm-pass@')},"
            f"{closed_port().replace('://', '://vllm-user:vllm-pass@')}?token=vllm-pass",
            SIDECAR_WHISPERX_URLS=whisperx.address.replace("://", "://whisper-user:whisper-pass@"),
        ) as running,
    ):
        sample = (await running.report()).telemetry
        assert [gpu.name for gpu in sample.gpus] == ["NVIDIA A100-SXM4-80GB", None, None]
        assert [(one.name, one.health) for one in sample.containers] == [("vllm", "healthy"), ("whisperx", "starting")]
        assert [server.reachable for server in sample.vllm] == [True, False]
        assert [model.requests_running for model in sample.vllm[0].models] == [5]
        assert [(check.status, check.error) for check in sample.whisperx] == [(500, "HTTP status 500")]
        assert len(sample.errors) == 2
        for refused in (None, "Bearer wrong", f"Basic {TOKEN}"):
            assert await running.code(authorization=refused) == (401, "unauthorized")
        assert await running.end() == 0
        assert vllm.headers[0]["Authorization"].startswith("Basic ")
    printed = running.log.read_text()
    assert "source_failing" in printed
    assert "sidecar_stopped" in printed
    for secret in SECRETS:
        assert secret not in printed + "".join(running.responses)


async def test_the_token_is_needed_for_the_status_alone_and_nothing_can_be_changed(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as running:
        assert (await running.fetch("/healthz", authorization=None))[0] == 200
        assert (await running.fetch("/status"))[0] == 200
        assert (await running.fetch("/status", authorization=f"bearer  {TOKEN}"))[0] == 200
        status, _, body = await running.fetch("/status", method="HEAD")
        assert (status, body) == (200, b"")
        assert (await running.fetch("/status", method="HEAD", authorization=None))[0] == 401
        for wrong in (
            None,
            "",
            "Bearer",
            "Bearer wrong",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
            "Bearer é",
        ):
            assert await running.code(authorization=wrong) == (401, "unauthorized")
        _, headers, _ = await running.fetch("/status", authorization=None)
        assert headers["WWW-Authenticate"] == 'Bearer realm="penstock"'
        for path in ("/", "/status/", "/healthz/", "/metrics", "/docs", "/api/v1/infra/status", "/../etc/passwd"):
            assert await running.code(path) == (404, "not_found")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert await running.code(method=method) == (405, "method_not_allowed")
            assert await running.code("/healthz", method=method) == (405, "method_not_allowed")
        assert await running.end() == 0


async def test_a_sidecar_without_sources_reports_empty_lists(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as running:
        report = await running.report()
        sample = report.telemetry
        assert 0 <= report.age_seconds < 10
        assert (sample.gpus, sample.containers, sample.vllm, sample.whisperx, sample.errors) == ([], [], [], [], {})


async def test_a_configured_socket_that_is_missing_is_an_error_line(tmp_path: Path) -> None:
    async with sidecar(tmp_path, SIDECAR_DOCKER_SOCKET=str(tmp_path / "none.sock")) as running:
        sample = (await running.report()).telemetry
        assert sample.containers == []
        assert "SIDECAR_DOCKER_SOCKET" in sample.errors["containers"]


async def test_a_sidecar_ends_at_once_while_a_server_hangs(tmp_path: Path) -> None:
    async with serving(hanging) as stuck, sidecar(tmp_path, SIDECAR_VLLM_URLS=stuck.address) as running:
        await until(lambda: bool(stuck.paths), "it sends a request")
        assert await running.end() == 0


@pytest.mark.parametrize("variables", [{}, {"INFRA_SIDECAR_TOKEN": ""}])
async def test_a_sidecar_without_a_token_does_not_start_and_names_the_variable(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    log = tmp_path / "log"
    environment = clean_environment(SIDECAR_HTTP_PORT="0", **variables)
    async with penstock("sidecar", environment=environment, folder=tmp_path, log=log) as process:
        assert await asyncio.wait_for(process.wait(), 20) == 2
    assert "INFRA_SIDECAR_TOKEN: " in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_a_port_in_use_is_reported_by_its_variable(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as first:
        log = tmp_path / "second.log"
        environment = clean_environment(
            INFRA_SIDECAR_TOKEN=TOKEN,
            SIDECAR_HTTP_HOST="127.0.0.1",
            SIDECAR_HTTP_PORT=first.url.rpartition(":")[2],
        )
        async with penstock("sidecar", environment=environment, folder=tmp_path, log=log) as second:
            assert await asyncio.wait_for(second.wait(), 20) == 2
        assert "SIDECAR_HTTP_PORT: cannot listen on 127.0.0.1" in log.read_text()
