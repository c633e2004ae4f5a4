"""Readings of containers from a Docker API on a real socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from penstock.sidecar.containers import ContainerReader
from penstock.sidecar.fetching import SourceFailed
from penstock.sidecar.telemetry import Container
from tests.support.docker import Docker, listed, usage


@asynccontextmanager
async def reading(path: Path, *, required: bool = False) -> AsyncIterator[ContainerReader]:
    reader = ContainerReader(path, required=required)
    try:
        yield reader
    finally:
        await reader.close()


async def test_a_running_container_is_reported_with_its_usage() -> None:
    docker = Docker()
    docker.containers = [listed("vllm")]
    docker.stats["vllm"] = usage(container=1_000_000_000, machine=80_000_000_000)
    async with docker.listening() as path, reading(path) as reader:
        (first,) = await reader.read()
        assert first == Container(
            id=docker.containers[0]["Id"][:12],
            name="vllm",
            image="images/vllm:latest",
            state="running",
            health="healthy",
            cpu_percent=None,
            memory_used_bytes=2000,
            memory_limit_bytes=8000,
        )
        docker.stats["vllm"] = usage(container=4_000_000_000, machine=96_000_000_000)
        (second,) = await reader.read()
        assert second.cpu_percent == 150.0  # 3 s of 16 s of 8 cores
        docker.stats["vllm"] = usage(container=5_000_000, machine=97_000_000_000)
        (restarted,) = await reader.read()
        assert restarted.cpu_percent is None
    assert f"/containers/{docker.containers[0]['Id']}/stats?stream=false&one-shot=true" in docker.paths


async def test_stopped_containers_are_listed_without_their_usage() -> None:
    docker = Docker()
    docker.containers = [
        listed("old", State="exited", Status="Exited (137) 3 days ago"),
        listed("new", State="created", Status="Created", Names=None),
    ]
    async with docker.listening() as path, reading(path) as reader:
        found = {one.name: one for one in await reader.read()}
    assert found["old"] == Container(
        id=docker.containers[0]["Id"][:12], name="old", image="images/old:latest", state="exited"
    )
    assert docker.containers[1]["Id"][:12] in found
    assert docker.paths == ["/containers/json?all=true"]


@pytest.mark.parametrize(
    ("fields", "health"),
    [
        ({"Status": "Up 2 hours (unhealthy)"}, "unhealthy"),
        ({"Status": "Up 4 seconds (health: starting)"}, "starting"),
        ({"Status": "Up 2 hours"}, None),
        ({"Status": "Up 2 hours", "Health": {"Status": "unhealthy", "FailingStreak": 3}}, "unhealthy"),
        ({"Status": "Up 2 hours", "Health": {"Status": "none", "FailingStreak": 0}}, None),
    ],
)
async def test_health_is_read_from_old_and_new_versions_of_docker(
    fields: dict[str, object], health: str | None
) -> None:
    docker = Docker()
    docker.containers = [listed("one", **fields)]
    docker.stats["one"] = usage(container=1, machine=1)
    async with docker.listening() as path, reading(path) as reader:
        (found,) = await reader.read()
    assert found.health == health


async def test_memory_is_without_the_file_cache_under_cgroup_v1_too() -> None:
    docker = Docker()
    docker.containers = [listed("one")]
    docker.stats["one"] = usage(
        container=1, machine=1, stats={"inactive_file": 1, "total_inactive_file": 2500, "cache": 2600}
    )
    async with docker.listening() as path, reading(path) as reader:
        (found,) = await reader.read()
    assert found.memory_used_bytes == 500


async def test_a_slow_or_broken_container_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.sidecar.containers._STATS_SECONDS", 0.1)
    docker = Docker()
    docker.containers = [listed(name) for name in ("slow", "broken", "gone", "bare", "good")]
    docker.stats |= {
        "broken": b'{"cpu_stats": [',
        "gone": 404,
        "bare": {"cpu_stats": None, "memory_stats": {}},
        "good": usage(container=1, machine=1),
    }
    async with docker.listening() as path, reading(path) as reader:
        found = {one.name: one.memory_used_bytes for one in await reader.read()}
    assert found == {"slow": None, "broken": None, "gone": None, "bare": None, "good": 2000}
    assert docker.left.is_set()


async def test_a_missing_socket_is_an_error_only_if_it_is_configured(tmp_path: Path) -> None:
    async with reading(tmp_path / "docker.sock") as reader:
        assert await reader.read() == []
    async with reading(tmp_path / "docker.sock", required=True) as reader:
        with pytest.raises(SourceFailed, match="SIDECAR_DOCKER_SOCKET"):
            await reader.read()


async def test_a_socket_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    async with reading(plain) as reader:
        with pytest.raises(SourceFailed, match="cannot connect: Connection refused"):
            await reader.read()
    with TemporaryDirectory(prefix="docker-") as folder, socket.socket(socket.AF_UNIX) as dead:
        path = Path(folder) / "docker.sock"
        dead.bind(str(path))
        async with reading(path) as reader:
            with pytest.raises(SourceFailed, match="cannot connect: Connection refused"):
                await reader.read()


async def test_a_server_that_is_not_docker_is_reported() -> None:
    docker = Docker()
    docker.containers = [{"State": "running", "Id": 5}]
    async with docker.listening() as path, reading(path) as reader:
        with pytest.raises(SourceFailed, match="is not Docker"):
            await reader.read()
