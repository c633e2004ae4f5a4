"""Find free TCP ports that stay free until a server listens on them, and check that required ports are free."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.errors import CannotStart
from penstock.settings import Settings

_TIMEOUT_SECONDS: Final = 2.0
_LOWEST: Final = 10_000  # lower ports are commonly used by well-known programs
_HIGHEST: Final = 65_535
_LOCAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_IANA_DYNAMIC: Final = (49_152, 65_535)  # the default of systems without that file
_TRIES: Final = 200

_random: Final = random.SystemRandom()
_given: Final = set[int]()
_share: tuple[int, int] = (0, 1)


def use_share(index: int, count: int) -> None:
    """Take free ports only from part ``index`` of ``count`` parts, so that processes that start servers on one machine
    at the same time do not choose the same port."""
    global _share  # noqa: PLW0603  (one per process, like the ports that it has given)
    _share = (index, count)


def free_port(count: int = 1) -> int:
    """Return the first of ``count`` consecutive TCP ports on which nothing listens; never the same twice in a process.

    They lie outside the range from which the kernel takes the ports of outgoing connections. A port in that range may
    be taken before a server listens on it, even by a connection to that very port.
    """
    low, high = _taken_by_connections()
    choices = _slice([*range(_LOWEST, low), *range(high + 1, _HIGHEST + 1)])
    for _ in range(_TRIES if choices else 0):
        first: int = _random.choice(choices)
        ports = range(first, first + count)
        if ports[-1] in choices and not _given.intersection(ports) and all(map(_is_free, ports)):
            _given.update(ports)
            return first
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def settled(settings: Settings) -> Settings:
    """Return the settings for all children.

    A free port replaces HTTP_PORT=0, because the supervisor must know the address of its gateway. Unless
    WORKER_HTTP_HOST is set, workers listen on no wider an address than the gateway.
    """
    changes: dict[str, object] = {}
    if not settings.http_port:
        changes["http_port"] = free_port()
    if "worker_http_host" not in settings.stated:
        changes["worker_http_host"] = settings.http_host
    return settings.replace(**changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """An address that a child listens on, and the variable that changes its port."""

    variable: str
    host: str
    port: int


def listening(settings: Settings) -> list[Listening]:
    """Return the addresses of the children of ``penstock serve``."""
    found = [Listening(variable="HTTP_PORT", host=settings.http_host, port=settings.http_port)]
    if settings.worker_http_port:
        ports = range(settings.worker_http_port, settings.worker_http_port + settings.penstock_workers)
        found += [Listening(variable="WORKER_HTTP_PORT", host=settings.worker_http_host, port=port) for port in ports]
    return found


async def check_ports(wanted: Iterable[Listening]) -> None:
    """Raise CannotStart when a port that a child needs stays taken, because restarting the child would not help.

    Waits for a moment first, because the children of a supervisor that was just killed may still be ending.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + _TIMEOUT_SECONDS
    for one in wanted:
        while (obstacle := _obstacle(one.host, one.port)) is not None:
            if clock() > deadline:
                raise CannotStart(f"Cannot listen on {one.host} port {one.port}: {obstacle}. Set {one.variable}.")
            await asyncio.sleep(0.05)


def _slice(ports: list[int]) -> list[int]:
    index, count = _share
    return ports[len(ports) * index // count : len(ports) * (index + 1) // count]


def _obstacle(host: str, port: int) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("", port))
        return True
    return False


def _taken_by_connections() -> tuple[int, int]:
    try:
        low, high = map(int, _LOCAL_RANGE.read_text().split())
    except (OSError, ValueError):
        return _IANA_DYNAMIC
    return low, high
