"""Connections to servers elsewhere: each goes to an address that was checked for that very connection.

A name may resolve to another address a moment later, and an address has many spellings, some of which only the HTTP
client accepts; so the check applies to the address for which a socket is created, whatever its spelling was. Runtimes
use this inside replicas, so imports stay within the standard library and aiohttp.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from penstock.outbound.policy import AddressRefused, Policy

AddrInfoType = tuple[int, int, int, str, tuple[Any, ...]]  # as getaddrinfo returns them

_CONNECT_SECONDS = 10.0


class CheckedResolver(AbstractResolver):
    """Resolves names with the system's resolver, or another one, and checks each resulting address."""

    def __init__(self, policy: Policy, inner: AbstractResolver | None = None) -> None:
        self._policy = policy
        self._inner = inner or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if not self._refused(one["host"])]
        if found and not allowed:
            self._policy.check(host, found[0]["host"])
        return allowed

    def _refused(self, address: str) -> bool:
        try:
            self._policy.check(address, address)
        except AddressRefused:
            return True
        return False

    async def close(self) -> None:
        await self._inner.close()


def session(
    policy: Policy,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    resolver: AbstractResolver | None = None,
    decompress: bool = True,
) -> aiohttp.ClientSession:
    """Return a pool of keep-alive connections under ``policy``, without cookies or the environment's proxies.

    Each request ends after ``seconds``. No socket is made for an address that is refused. Without ``decompress``,
    bodies of responses are left as they arrive.
    """

    def checked(address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = address
        policy.check(str(place[0]), str(place[0]))
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        headers=dict(headers or {}),
        timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, _CONNECT_SECONDS)),
        connector=aiohttp.TCPConnector(
            resolver=CheckedResolver(policy, resolver), limit=0, use_dns_cache=False, socket_factory=checked
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=decompress,
        trust_env=False,
    )
