"""Measurements of all sources at once: a hanging source delays no other, and a failure affects its source only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from penstock.sidecar.containers import ContainerReader
from penstock.sidecar.gpus import GpuReader
from penstock.sidecar.sampler import Sampler, Sources
from penstock.sidecar.telemetry import Gpu, HealthCheck
from penstock.sidecar.vllm import VllmReader
from penstock.sidecar.whisperx import WhisperxReader
from penstock.telemetry import logs
from tests.support.docker import Docker, listed, usage
from tests.support.http_servers import closed_port, hanging, responding, sending, serving
from tests.support.vllm_metrics import metrics
from tests.support.waiting import until


class StuckGpus(GpuReader):
    """A driver that never responds."""

    async def read(self) -> list[Gpu]:
        await asyncio.Event().wait()
        raise AssertionError


class BrokenGpus(GpuReader):
    """A source with a bug."""

    async def read(self) -> list[Gpu]:
        raise RuntimeError("secret-of-a-mistake")


class NoGpus(GpuReader):
    """A host without GPUs, even if this machine has some."""

    async def read(self) -> list[Gpu]:
        return []


@asynccontextmanager
async def sampler(
    *,
    gpus: GpuReader | None = None,
    socket: Path = Path("/nowhere/docker.sock"),
    vllm: tuple[str, ...] = (),
    whisperx: tuple[str, ...] = (),
    interval: timedelta = timedelta(milliseconds=10),
    timeout: timedelta = timedelta(seconds=3),
) -> AsyncIterator[Sampler]:
    containers = ContainerReader(socket)
    async with aiohttp.ClientSession() as session:
        sources = Sources(
            gpus=gpus or NoGpus(),
            containers=containers,
            vllm=[VllmReader(session, url) for url in vllm],
            whisperx=[WhisperxReader(session, url) for url in whisperx],
        )
        yield Sampler(sources, interval=interval, timeout=timeout, host="gpu-1")
        await containers.close()


async def test_all_sources_are_reported_together() -> None:
    docker = Docker()
    docker.containers = [listed("vllm")]
    docker.stats["vllm"] = usage(container=1, machine=1)
    before = datetime.now(UTC)
    async with (
        docker.listening() as socket,
        serving(sending(metrics(), "text/plain")) as vllm,
        serving(responding({})) as whisperx,
        sampler(socket=socket, vllm=(vllm.address,), whisperx=(whisperx.address,)) as one,
    ):
        sample = await one.sample()
    assert before <= sample.sampled_at <= datetime.now(UTC)
    assert (sample.host, sample.gpus, sample.errors) == ("gpu-1", [], {})
    assert [container.name for container in sample.containers] == ["vllm"]
    assert [(server.url, server.reachable) for server in sample.vllm] == [(vllm.address, True)]
    assert [(check.url, check.reachable) for check in sample.whisperx] == [(whisperx.address, True)]


async def test_sources_that_hang_or_fail_delay_and_hide_no_other() -> None:
    docker = Docker()
    docker.containers = [listed("vllm")]
    docker.stats["vllm"] = usage(container=1, machine=1)
    away = closed_port().replace("://", "://admin:pass-word@")
    async with (
        docker.listening() as socket,
        serving(hanging) as stuck,
        serving(sending(metrics(), "text/plain")) as vllm,
        sampler(
            gpus=StuckGpus(),
            socket=socket,
            vllm=(stuck.address, vllm.address),
            whisperx=(stuck.address, away),
            timeout=timedelta(seconds=2),  # enough for the others on a busy machine
        ) as one,
    ):
        began = time.monotonic()
        sample = await one.sample()
        assert time.monotonic() - began < 5, "all are read concurrently: one after the other they take 6 s"
    slow = "no response within 2 s"
    assert [container.name for container in sample.containers] == ["vllm"]
    assert [(server.reachable, server.error) for server in sample.vllm] == [(False, slow), (True, None)]
    masked = away.replace("admin:pass-word", "******")
    assert sample.whisperx == [
        HealthCheck(url=stuck.address, reachable=False, error=slow),
        HealthCheck(url=masked, reachable=False, error="cannot connect: Connection refused"),
    ]
    hosts = stuck.address.removeprefix("http://"), away.rpartition("@")[2]
    assert sample.errors == {
        "gpus": slow,
        f"vllm {hosts[0]}": slow,
        f"whisperx {hosts[0]}": slow,
        f"whisperx {hosts[1]}": "cannot connect: Connection refused",
    }


async def test_a_source_that_hangs_makes_no_other_late() -> None:
    """The others are measured repeatedly while one measurement continues; its previous result is kept."""
    hung = asyncio.Event()

    async def once(request: web.Request) -> web.StreamResponse:
        if len(stuck.paths) == 1:
            return await sending(metrics(), "text/plain")(request)
        hung.set()
        return await hanging(request)

    async with (
        serving(once) as stuck,
        serving(responding({})) as whisperx,
        sampler(vllm=(stuck.address,), whisperx=(whisperx.address,), timeout=timedelta(hours=1)) as one,
    ):
        running = asyncio.create_task(one.run())
        async with asyncio.timeout(10):
            await hung.wait()
            measured = len(whisperx.paths)
            while len(whisperx.paths) < measured + 5:
                await asyncio.sleep(0)
        report = await one.report()
        assert len(stuck.paths) == 2, "it is not called again while its response is outstanding"
        assert report.telemetry.vllm[0].reachable
        assert report.telemetry.errors == {}
        await asyncio.wait_for(one.stop(), 10)
        await running


async def test_a_bug_in_a_source_is_an_error_line_with_its_details_in_the_log_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="warning", form="json")
    async with sampler(gpus=BrokenGpus()) as one:
        assert (await one.sample()).errors == {"gpus": "RuntimeError"}
    assert "secret-of-a-mistake" in capsys.readouterr().out


async def test_the_sampler_measures_at_intervals_and_reports_the_age() -> None:
    async with serving(responding({})) as whisperx, sampler(whisperx=(whisperx.address,)) as one:
        running = asyncio.create_task(one.run())
        first = await asyncio.wait_for(one.report(), 10)
        async with asyncio.timeout(10):
            while (later := await one.report()).telemetry.sampled_at == first.telemetry.sampled_at:
                await asyncio.sleep(0)
        assert 0 <= later.age_seconds < 10
        await one.stop()
        await one.stop()
        await asyncio.wait_for(running, 1)


async def test_a_source_that_keeps_failing_is_logged_once_and_again_on_recovery(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", form="json")
    requested, healthy, seen = asyncio.Event(), asyncio.Event(), 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal seen
        seen += 1
        if seen == 4:
            requested.set()
        return await responding({}, 200 if healthy.is_set() else 503)(request)

    try:
        async with serving(respond) as whisperx, sampler(whisperx=(whisperx.address,)) as one:
            running = asyncio.create_task(one.run())
            await asyncio.wait_for(requested.wait(), 10)
            healthy.set()
            async with asyncio.timeout(10):
                while (await one.report()).telemetry.errors:
                    await asyncio.sleep(0)
            await one.stop()
            await running
    finally:
        logs.configure(level="warning", form="json")
    out = capsys.readouterr().out
    assert (out.count("source_failing"), out.count("source_recovered")) == (1, 1)


async def test_stopping_does_not_wait_for_a_source_that_hangs() -> None:
    async with serving(hanging) as stuck, sampler(vllm=(stuck.address,), timeout=timedelta(hours=1)) as one:
        running = asyncio.create_task(one.run())
        await until(lambda: bool(stuck.paths), "the request has arrived")
        await asyncio.wait_for(one.stop(), 10)
        await asyncio.wait_for(running, 10)


async def test_stopping_a_sampler_that_never_ran_is_fine() -> None:
    async with sampler() as one:
        await asyncio.wait_for(one.stop(), 1)
