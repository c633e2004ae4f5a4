"""Readings of GPUs by the real pynvml, with a small library in place of NVIDIA's and with none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.sidecar.gpus import GpuReader
from tests.support.nvml import build_nvml
from tests.support.processes import clean_environment

PROBE = Path(__file__).with_name("gpu_probe.py")


class Probe:
    """A process that reads GPUs on request."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def read(self, seconds: float = 10.0) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seconds}\n".encode())
        return msgspec.json.decode(await asyncio.wait_for(self.process.stdout.readline(), 20))

    async def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), 20)


@asynccontextmanager
async def probing(library: Path, state: Path) -> AsyncIterator[Probe]:
    environment = clean_environment(LD_LIBRARY_PATH=str(library), FAKE_NVML=str(state))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROBE),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Probe(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


async def test_a_gpu_is_reported_in_its_units_and_unsupported_values_are_null(library: Path, tmp_path: Path) -> None:
    async with probing(library, tmp_path) as probe:
        first, second, third = await probe.read()
    assert first == {
        "index": 0,
        "name": "NVIDIA A100-SXM4-80GB",
        "uuid": "GPU-5f3a",
        "memory_used_bytes": 42949672960,
        "memory_total_bytes": 85899345920,
        "utilization_percent": 87.0,
        "temperature_celsius": 64.0,
        "power_watts": 312.5,
        "power_limit_watts": None,
        "processes": [
            {"pid": 4321, "name": "python3", "memory_bytes": 40000000000},
            {"pid": 4322, "name": None, "memory_bytes": None},
        ],
    }
    assert (second["memory_used_bytes"], second["memory_total_bytes"]) == (250, 1000)
    assert {name for name, value in second.items() if value is not None} == {
        "index",
        "memory_used_bytes",
        "memory_total_bytes",
    }
    assert {name for name, value in third.items() if value is not None} == {"index"}


async def test_without_a_library_or_a_driver_there_are_no_gpus_and_no_error(library: Path, tmp_path: Path) -> None:
    async with probing(tmp_path, tmp_path) as probe:
        assert await probe.read() == []
        assert await probe.read() == []
    (tmp_path / "unloaded").touch()
    async with probing(library, tmp_path) as probe:
        assert await probe.read() == []
        (tmp_path / "unloaded").unlink()
        assert len(await probe.read()) == 3, "a driver that comes later is found"


async def test_a_driver_that_was_lost_is_an_error_once_and_then_used_again(library: Path, tmp_path: Path) -> None:
    async with probing(library, tmp_path) as probe:
        assert len(await probe.read()) == 3
        (tmp_path / "lost").touch()
        assert (await probe.read())["error"].startswith("NVML: ")
        assert len(await probe.read()) == 3


async def test_a_driver_that_blocks_holds_up_neither_the_next_reading_nor_the_end(
    library: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "stuck")
    async with probing(library, tmp_path) as probe:
        assert await probe.read(0.05) == {"error": "TimeoutError"}
        assert await probe.read() == {"error": "the driver has not completed the last query yet"}
        assert await probe.end() == 0


async def test_a_driver_that_responds_late_is_queried_again(library: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "stuck"
    os.mkfifo(pipe)
    async with probing(library, tmp_path) as probe:
        assert await probe.read(0.05) == {"error": "TimeoutError"}
        writer = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)
        pipe.unlink()
        os.close(writer)
        async with asyncio.timeout(10):
            while len(state := await probe.read()) != 3:
                assert "has not completed" in state["error"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no NVIDIA GPU")
async def test_a_real_gpu_is_reported_as_by_nvidia_smi() -> None:
    query = "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"
    process = await asyncio.create_subprocess_exec("nvidia-smi", *query, stdout=asyncio.subprocess.PIPE)
    shown, _ = await asyncio.wait_for(process.communicate(), 60)
    expected = [line.rsplit(", ", 1) for line in shown.decode().strip().splitlines()]
    found = await GpuReader().read()
    assert [gpu.name for gpu in found] == [name for name, _ in expected]
    for gpu, (_, mebibytes) in zip(found, expected, strict=True):
        assert gpu.memory_total_bytes == pytest.approx(int(mebibytes) * 2**20, rel=0.05)
