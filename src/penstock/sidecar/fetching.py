"""Bounded requests to the sources of a sidecar. Error messages are safe to show: they hold no URL or password."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from yarl import URL

from penstock.masking import mask_url

if TYPE_CHECKING:
    import aiohttp

MAX_BYTES: Final = 4 * 2**20  # of one response
TIMEOUT_SECONDS: Final = 3.0  # for one request
_PORTS: Final = {"http": 80, "https": 443}


class SourceFailed(Exception):
    """A source could not be read; the message states the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole response."""

    status: int
    body: bytes
    latency_ms: float


async def fetch(
    session: aiohttp.ClientSession, base: str, path: str, *, headers: Mapping[str, str] | None = None
) -> Reply:
    """Send ``GET base + path``, with the user and password in ``base`` unless ``headers`` holds credentials.

    Raises SourceFailed. The caller limits the time.
    """
    import aiohttp  # noqa: PLC0415  (slow to import; a gateway without sidecars needs none)

    began = time.perf_counter()
    try:
        target = _target(base, path)
        if headers and "Authorization" in headers:
            target = target.with_user(None)  # aiohttp takes only one of the two
        async with session.get(target, headers=headers, allow_redirects=False) as response:
            body = await _bounded(response)
            return Reply(status=response.status, body=body, latency_ms=round(1000 * (time.perf_counter() - began), 1))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise SourceFailed(reason(error)) from None


def place(url: str) -> str:
    """Return ``host:port`` of a URL."""
    rest = mask_url(url).partition("://")[2].rpartition("@")[2]  # the last one: a password may hold an unescaped @
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    try:
        parts = urlsplit(url)
        if parts.port is None:
            return f"{authority}:{_PORTS[parts.scheme]}"
    except (ValueError, KeyError):
        pass
    return authority


def too_slow(seconds: float) -> str:
    """Return the error of a source that did not respond in time."""
    return f"no response within {seconds:g} s"


def reason(error: BaseException) -> str:
    """Return why a connection failed, without the error's own text, which may quote a URL."""
    import aiohttp  # noqa: PLC0415

    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host's name is not known"
        case aiohttp.ClientConnectorError() if (error.os_error.errno or 0) > 0:
            return f"cannot connect: {os.strerror(error.os_error.errno or 0)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before a response"
        case _:
            return type(error).__name__


def _target(base: str, path: str) -> URL:
    target = URL(base)
    return target.with_path(target.raw_path.rstrip("/") + path, encoded=True, keep_query=True)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BYTES:
            raise SourceFailed(f"the response has more than {MAX_BYTES // 2**20} MiB")
        parts.append(part)
    return b"".join(parts)
