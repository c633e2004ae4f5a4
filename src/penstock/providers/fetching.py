"""Fetch files from URLs that callers name: only from addresses that are allowed, and bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from penstock.failures import CallFailed, Category
from penstock.outbound import addresses
from penstock.outbound.policy import AddressRefused, Policy, check_url, networks_of
from penstock.outbound.refusals import stated_wait

T = TypeVar("T")

_SECONDS: Final = 300.0
_REDIRECTS: Final = 5
_PIECE: Final = 2**20  # bytes written at once
_CLIENT_ERRORS: Final = range(400, 500)


class Fetcher:
    """Fetches from public addresses and from the given private networks; ``close`` it at the end."""

    def __init__(
        self,
        networks: Sequence[str] = (),
        *,
        max_bytes: int,
        seconds: float = _SECONDS,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._policy = Policy(public=True, also=networks_of(list(networks)))
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, to: Path, *, field: str) -> None:
        """Download a URL to a file; each redirect is checked like the first address.

        Raises CallFailed, whose message names ``field`` and the host; the rest of the URL may hold a secret.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._follow(url, to, field)
        except TimeoutError:
            raise CallFailed(Category.TIMEOUT, f"{_place(url)} took longer than {self._seconds:g} s") from None
        except _LocalFailure as error:
            said = error.error.strerror or type(error.error).__name__
            raise CallFailed(Category.INTERNAL, f"the file cannot be kept here: {said}") from None
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            refused = _refusal(error)
            if refused is not None:
                raise CallFailed(Category.BAD_INPUT, refused, field=f"input.{field}") from None
            raise CallFailed(Category.PROVIDER_ERROR, f"{_place(url)} broke off: {type(error).__name__}") from None

    async def _follow(self, url: str, to: Path, field: str) -> None:
        for _ in range(_REDIRECTS + 1):
            problem = check_url(url, self._policy)
            if problem is not None:
                raise CallFailed(Category.BAD_INPUT, problem, field=f"input.{field}")
            async with self._connected().get(url, allow_redirects=False) as response:
                if response.status in {301, 302, 303, 307, 308} and "Location" in response.headers:
                    url = _redirected(url, response.headers["Location"], field)
                    continue
                self._check(url, response, field)
                await self._save(response, to, field)
                return
        raise CallFailed(Category.BAD_INPUT, f"redirects more than {_REDIRECTS} times", field=f"input.{field}")

    def _check(self, url: str, response: aiohttp.ClientResponse, field: str) -> None:
        status = response.status
        if 200 <= status < 300:
            if (response.content_length or 0) > self._max_bytes:
                raise self._too_large(field)
            return
        said = f"{_place(url)} responded with status {status}"
        wait = stated_wait(response.headers, now=datetime.now(UTC))
        if status == 429 or (status == 503 and wait is not None):
            raise CallFailed(Category.RATE_LIMITED, said, retry_after=wait)
        if status in _CLIENT_ERRORS and status != 408:
            raise CallFailed(Category.BAD_INPUT, said, field=f"input.{field}")
        raise CallFailed(Category.PROVIDER_ERROR, said)

    async def _save(self, response: aiohttp.ClientResponse, to: Path, field: str) -> None:
        size = 0
        with await _locally(to.open, "wb") as file:
            piece = bytearray()
            async for part in response.content.iter_any():
                size += len(part)
                if size > self._max_bytes:
                    raise self._too_large(field)
                piece += part
                if len(piece) >= _PIECE:
                    await _locally(_write, file, bytes(piece))
                    piece.clear()
            await _locally(_write, file, bytes(piece))

    def _too_large(self, field: str) -> CallFailed:
        return CallFailed(Category.BAD_INPUT, f"the file has more than {self._max_bytes} bytes", field=f"input.{field}")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = addresses.session(self._policy, seconds=self._seconds, resolver=self._resolver)
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _LocalFailure(Exception):
    """The local disk failed, not the remote host."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


async def _locally(work: Callable[..., T], *arguments: Any) -> T:
    """Run an operation on local files in a thread."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise _LocalFailure(error) from error


def _redirected(url: str, location: str, field: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise CallFailed(Category.BAD_INPUT, "redirects to what is not a URL", field=f"input.{field}") from None


def _write(file: IO[bytes], piece: bytes) -> None:
    file.write(piece)


def _place(url: str) -> str:
    return urlsplit(url).hostname or "the host"


def _refusal(error: BaseException) -> str | None:
    """Return why an address was refused, if that caused the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return str(cause)
        cause = cause.os_error if isinstance(cause, aiohttp.ClientConnectorError) else cause.__cause__
    return None
