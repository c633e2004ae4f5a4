"""Containers, read from the Docker socket."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from penstock.sidecar.fetching import Reply, SourceFailed, fetch
from penstock.sidecar.telemetry import Container

T = TypeVar("T")

_CONNECTIONS: Final = 8
_STATS_SECONDS: Final = 2.0  # for the request about one container; the others do not wait for it
_HEALTH: Final = re.compile(r"\((?:health: )?(healthy|unhealthy|starting)\)")


class _Health(Struct, rename="pascal"):
    status: str | None = None


class _Listed(Struct, rename="pascal"):
    id: str
    names: list[str] | None = None
    image: str | None = None
    state: str | None = None
    status: str | None = None
    health: _Health | None = None  # since API 1.52; earlier, it is part of the status


class _Usage(Struct):
    total_usage: int = 0  # nanoseconds
    percpu_usage: list[int] | None = None


class _Cpu(Struct):
    cpu_usage: _Usage
    system_cpu_usage: int | None = None  # nanoseconds of all cores
    online_cpus: int | None = None


class _Memory(Struct):
    usage: int | None = None
    limit: int | None = None
    stats: dict[str, int] | None = None


class _Stats(Struct):
    cpu_stats: _Cpu | None = None
    memory_stats: _Memory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cores:
    """The CPU time that a container and the whole machine had used at one measurement."""

    container: int
    machine: int
    count: int


class ContainerReader:
    """Lists all containers with the resources that running ones use; keeps the last measurement of each."""

    def __init__(self, socket: Path, *, required: bool = False) -> None:
        self._socket = socket
        self._required = required  # the socket was configured, so its absence is an error
        self._session: aiohttp.ClientSession | None = None
        self._before: dict[str, _Cores] = {}

    async def read(self) -> list[Container]:
        """Return all containers by name; none without a socket. Raises SourceFailed when the socket cannot be used."""
        if not self._is_there():
            return []
        listed = _decoded(await self._get("/containers/json", "?all=true"), list[_Listed])
        stats = await asyncio.gather(*(self._stats(one) for one in listed))
        now = {one.id: cores for one, found in zip(listed, stats, strict=True) if (cores := _cores(found))}
        before, self._before = self._before, now
        containers = [
            _container(one, found, _percent(before.get(one.id), now.get(one.id)))
            for one, found in zip(listed, stats, strict=True)
        ]
        return sorted(containers, key=lambda container: container.name)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _is_there(self) -> bool:
        try:
            if self._socket.exists():
                return True
        except OSError:
            raise SourceFailed(f"{self._socket} (SIDECAR_DOCKER_SOCKET) cannot be read") from None
        if self._required:
            raise SourceFailed(f"there is no {self._socket} (SIDECAR_DOCKER_SOCKET)")
        return False

    async def _stats(self, listed: _Listed) -> _Stats | None:
        """Return the resources that a running container uses; None when they are not known in time."""
        if listed.state != "running":
            return None
        path = f"/containers/{quote(listed.id, safe='')}/stats"
        try:
            async with asyncio.timeout(_STATS_SECONDS):
                return _decoded(await self._get(path, "?stream=false&one-shot=true"), _Stats)
        except (SourceFailed, TimeoutError):
            return None

    async def _get(self, path: str, query: str) -> Reply:
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self._socket), limit=_CONNECTIONS)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return await fetch(self._session, f"http://docker{query}", path)


def _decoded(reply: Reply, kind: type[T]) -> T:
    if reply.status != 200:
        raise SourceFailed(f"Docker responded with HTTP status {reply.status}")
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SourceFailed("the server at SIDECAR_DOCKER_SOCKET is not Docker") from None


def _container(listed: _Listed, stats: _Stats | None, cpu_percent: float | None) -> Container:
    memory = stats.memory_stats if stats is not None else None
    return Container(
        id=listed.id[:12],
        name=next(iter(listed.names or []), listed.id[:12]).removeprefix("/"),
        image=listed.image or "",
        state=listed.state or "unknown",
        health=_health(listed),
        cpu_percent=cpu_percent,
        memory_used_bytes=_used(memory) if memory is not None else None,
        memory_limit_bytes=memory.limit if memory is not None else None,
    )


def _health(listed: _Listed) -> str | None:
    if listed.health is not None and listed.health.status:
        return None if listed.health.status == "none" else listed.health.status
    found = _HEALTH.search(listed.status or "")
    return found[1] if found else None


def _used(memory: _Memory) -> int | None:
    """Return the used memory, as ``docker stats`` does: without inactive file cache. Its name depends on the cgroup."""
    if memory.usage is None:
        return None
    stats = memory.stats or {}
    inactive = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    return memory.usage - inactive if 0 <= inactive < memory.usage else memory.usage


def _cores(stats: _Stats | None) -> _Cores | None:
    cpu = stats.cpu_stats if stats is not None else None
    if cpu is None or cpu.system_cpu_usage is None:
        return None
    count = cpu.online_cpus or len(cpu.cpu_usage.percpu_usage or []) or 1
    return _Cores(container=cpu.cpu_usage.total_usage, machine=cpu.system_cpu_usage, count=count)


def _percent(before: _Cores | None, now: _Cores | None) -> float | None:
    """Return the share of one core in percent; None at the first measurement and after a restart of the container."""
    if before is None or now is None or now.container < before.container or now.machine <= before.machine:
        return None
    return round(100 * now.count * (now.container - before.container) / (now.machine - before.machine), 1)
