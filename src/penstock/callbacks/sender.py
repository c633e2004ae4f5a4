"""Sends messages to receivers, with every wait and every buffer bounded."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from penstock.callbacks.rules import Response
from penstock.outbound import addresses
from penstock.outbound.policy import AddressRefused, Policy, check_url
from penstock.outbound.refusals import retry_after

TIMEOUT: Final = timedelta(seconds=15)  # from the request to the head of the response
_BODY_SECONDS: Final = 1.0  # for the body after the head: only its beginning is kept
_READ_BYTES: Final = 1024
_EXCERPT_CHARACTERS: Final = 200
_MAX_TARGETS: Final = 4096  # URLs whose check is remembered


def policy_of(networks: Sequence[str]) -> Policy:
    """Return the policy for the addresses of endpoints: public ones, and those in ``networks``."""
    return Policy(public=True, also=[ip_network(one) for one in networks])


class Sender:
    """The HTTP client of one process. It follows no redirects, and connects only to addresses that it has checked."""

    def __init__(
        self, policy: Policy, *, timeout: timedelta = TIMEOUT, resolver: AbstractResolver | None = None
    ) -> None:
        self._policy = policy
        self._timeout = timeout
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, URL | str] = {}

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send one message; every failure is in the response."""
        began = time.perf_counter()
        target = self._target(url)
        if isinstance(target, str):
            return Response(status=None, seconds=0.0, error=target)
        session = self._session or self._open()
        try:
            async with session.post(target, data=body, headers=headers, allow_redirects=False) as response:
                seconds = time.perf_counter() - began
                excerpt = await _beginning(response)
                return Response(
                    status=response.status,
                    seconds=seconds,
                    error="" if 200 <= response.status < 300 else _error(response.status),
                    excerpt=excerpt,
                    retry_after=retry_after(response.headers.get("Retry-After"), now=datetime.now(UTC)),
                )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return Response(status=None, seconds=time.perf_counter() - began, error=self._reason(error))

    def _open(self) -> aiohttp.ClientSession:
        self._session = addresses.session(
            self._policy,
            seconds=self._timeout.total_seconds(),
            headers={"User-Agent": "Penstock"},
            resolver=self._resolver,
            decompress=False,
        )
        return self._session

    def _target(self, url: str) -> URL | str:
        """Return a parsed URL, or the reason why it cannot be used."""
        target = self._targets.get(url)
        if target is None:
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            problem = check_url(url, self._policy)
            target = self._targets[url] = URL(url) if problem is None else f"the address {problem}"
        return target

    def _reason(self, error: Exception) -> str:
        """Return what went wrong in the system's own words; other texts may quote the request."""
        if isinstance(error, TimeoutError):
            return f"no response within {self._timeout.total_seconds():g} s"
        cause: BaseException = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        for one in (cause, cause.__cause__):
            if isinstance(one, AddressRefused):
                return str(one)
            if isinstance(one, ssl.SSLError):
                return f"TLS failed ({one.reason or type(one).__name__})"
        if isinstance(cause, OSError) and cause.errno:
            return f"the connection failed ({os.strerror(cause.errno)})"
        return f"the connection failed ({type(error).__name__})"


def _error(status: int) -> str:
    if 300 <= status < 400:
        return f"status {status}: redirects are not followed"
    return f"status {status}"


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of the body, if it arrives at once. The connection is kept only if that is all of it."""
    content, found = response.content, b""
    if content.at_eof():
        return ""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while len(found) < _READ_BYTES and not content.at_eof():
                found += await content.read(_READ_BYTES - len(found))
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    if not content.at_eof():
        response.close()
    text = found.decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_EXCERPT_CHARACTERS]
