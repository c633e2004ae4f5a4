"""A Docker daemon's API for containers, on a socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

CONTAINER = "8dfafdbc3a40" + 52 * "0"


def listed(name: str, **changes: Any) -> dict[str, Any]:
    """Return a container as ``GET /containers/json`` lists it."""
    return {
        "Id": name.encode().hex().ljust(64, "0"),
        "Names": [f"/{name}"],
        "Image": f"images/{name}:latest",
        "ImageID": "sha256:" + 64 * "a",
        "Command": "serve --api-key secret-of-a-command",
        "Created": 1_767_225_600,
        "Ports": [{"PrivatePort": 8000, "PublicPort": 8000, "Type": "tcp"}],
        "Labels": {"com.docker.compose.project": "ai-server"},
        "State": "running",
        "Status": "Up 2 hours (healthy)",
        "HostConfig": {"NetworkMode": "ai-server_default"},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    } | changes


def usage(*, container: int, machine: int, cores: int = 8, **memory: Any) -> dict[str, Any]:
    """Return what ``GET /containers/{id}/stats?one-shot=true`` returns on a machine with cgroup v2."""
    return {
        "read": "2026-01-01T00:00:00.000000000Z",
        "preread": "0001-01-01T00:00:00Z",
        "pids_stats": {"current": 12, "limit": 18446744073709551615},
        "blkio_stats": {"io_service_bytes_recursive": None},
        "num_procs": 0,
        "cpu_stats": {
            "cpu_usage": {"total_usage": container, "usage_in_kernelmode": 1, "usage_in_usermode": 1},
            "system_cpu_usage": machine,
            "online_cpus": cores,
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 0}, "throttling_data": {}},
        "memory_stats": {"usage": 3000, "limit": 8000, "stats": {"anon": 1500, "inactive_file": 1000}} | memory,
        "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 1}},
    }


class Docker:
    """The part of a Docker daemon's API that concerns containers."""

    def __init__(self) -> None:
        self.containers: list[dict[str, Any]] = []
        self.stats: dict[str, Any] = {}  # by name; a container that is missing here never responds
        self.paths: list[str] = []
        self.left = asyncio.Event()  # set when a client gives up on a container that never responds

    async def list(self, request: web.Request) -> web.Response:
        self.paths.append(request.path_qs)
        every = request.query.get("all") == "true"
        return web.json_response([one for one in self.containers if every or one["State"] == "running"])

    async def stat(self, request: web.Request) -> web.Response:
        self.paths.append(request.path_qs)
        name = next(one["Names"][0][1:] for one in self.containers if one["Id"] == request.match_info["id"])
        if name not in self.stats:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        if isinstance(self.stats[name], bytes):
            return web.Response(body=self.stats[name], content_type="application/json")
        if isinstance(self.stats[name], int):
            return web.json_response({"message": "no such container"}, status=self.stats[name])
        return web.json_response(self.stats[name])

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Path]:
        """Listen on a socket and yield its path."""
        application = web.Application()
        application.router.add_get("/containers/json", self.list)
        application.router.add_get("/containers/{id}/stats", self.stat)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        with tempfile.TemporaryDirectory(prefix="docker-") as folder:  # a socket's path must be short
            path = Path(folder) / "docker.sock"
            await web.UnixSite(runner, str(path)).start()
            try:
                yield path
            finally:
                await runner.cleanup()
