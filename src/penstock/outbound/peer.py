"""Requests to one server elsewhere, with bounded responses, streams, and one error class for every failure.

The ``http`` and ``openai`` runtimes and the providers of speech and language share this module. Replicas use it, so
imports stay within msgspec, aiohttp and the standard library.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from penstock.event_stream import Events, Lines, TooLong
from penstock.failures import CallFailed, Category
from penstock.masking import SHORTEST, Masker, spelled
from penstock.outbound import addresses
from penstock.outbound.policy import AddressRefused, Policy, check_url
from penstock.outbound.refusals import READ_CHARACTERS, error_text, failure_of, stated_wait

MAX_RESPONSE_BYTES: Final = 64 * 2**20
_EXCERPT_LENGTH: Final = 300  # characters of a server's own words in an error
_ERROR_BODY_SECONDS: Final = 10.0
_LARGE_BODY_BYTES: Final = 2**16
_LARGE_JSON_BYTES: Final = 2**18  # larger JSON is cleaned in a thread
_MAX_LINE_BYTES: Final = 8 * 2**20  # of a stream
_MAX_TARGETS: Final = 64  # addresses whose check is remembered
ObserveHead = Callable[[int, Mapping[str, str]], None]
Part = TypeVar("Part")
_HIDING: Final = re.compile(rb"\\(?:/|u00[0-7])")  # spellings of plain characters inside JSON


class Peer:
    """One server, under one policy, with pooled connections. Raises CallFailed only.

    ``hints`` state what to check when the server refuses credentials or does not know an address. ``secrets`` are
    masked in every message; ``credentials``, which cannot occur in a text by chance, in responses too. Messages call
    the server ``name``. ``observe`` is called with the status and headers of every response. ``close`` it at the end.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float,
        secrets: Collection[str] = (),
        credentials: Collection[str] = (),
        policy: Policy | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        hints: Mapping[str, str] | None = None,
        name: str = "server",
        resolver: AbstractResolver | None = None,
        observe: ObserveHead | None = None,
    ) -> None:
        self._headers = dict(headers)
        self._timeout_seconds = timeout_seconds
        self._secrets = Masker(spelled(secrets))
        self.credentials = Masker(spelled(credentials))
        self._policy = policy or Policy()
        self._max_bytes = max_bytes
        self._hints = dict(hints or {})
        self._name = name
        self._resolver = resolver
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, URL] = {}

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, url: str, *, headers: Mapping[str, str], **body: Any) -> tuple[bytes, str]:
        """Send a request; return the whole response, and its media type in lower case without parameters."""
        request = self._request("POST", url, headers, body)
        try:
            async with request as response:
                await self._check(response)
                return await self.whole(response), media_type_of(response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from None

    async def get(self, url: str, *, headers: Mapping[str, str]) -> bytes:
        """Return the body of a GET response."""
        async with self.open(url, headers=headers, method="GET") as response:
            return await self.whole(response)

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], method: str = "POST", **body: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request whose successful (2xx) response the block reads."""
        request = self._request(method, url, headers, body)
        try:
            async with request as response:
                await self._check(response)
                yield response
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from None

    async def lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the lines of a streamed response as they come, without their ends."""
        lines = Lines(_MAX_LINE_BYTES)
        async for piece in self.pieces(response):
            for line in self._bounded(lines.feed, piece):
                yield line
        for line in lines.end():
            yield line

    async def events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the data of server-sent events as they come; comments and other fields are skipped."""
        events = Events(_MAX_LINE_BYTES)
        async for piece in self.pieces(response):
            for event in self._bounded(events.feed, piece):
                yield event.data
        for event in events.end():
            yield event.data

    def masked(self, text: str) -> str:
        """Return ``text`` without our secrets."""
        return self._secrets.text(text)

    async def cleaned(self, body: bytes) -> bytes:
        """Return JSON that may be stored: without our credentials in any spelling, and without U+0000, which PostgreSQL
        cannot store. Raises CallFailed for JSON that needs cleaning but cannot be parsed."""
        if not _HIDING.search(body) and not self.credentials.within(body):
            return body
        return await asyncio.to_thread(self._clean, body) if len(body) > _LARGE_JSON_BYTES else self._clean(body)

    def excerpt(self, text: str) -> str:
        """Return a server's own words without our secrets, cut to the length that errors show."""
        plain = self.masked(text[:READ_CHARACTERS])
        part = self._secrets.unfinished(plain)  # the beginning of a secret whose rest was cut off
        plain = plain[: len(plain) - part].replace("\0", "") if part >= SHORTEST else plain.replace("\0", "")
        line = " ".join(plain.split())
        return line if len(line) <= _EXCERPT_LENGTH else line[: _EXCERPT_LENGTH - 1] + "…"

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Any:  # aiohttp's context manager of a response
        data = body.get("data")
        if isinstance(data, bytes) and len(data) > _LARGE_BODY_BYTES:
            body["data"] = io.BytesIO(data)  # written in pieces, so that a large body does not block the event loop
        session = self._session or self._connect()
        # A redirect would take the request, and our credentials, to another address.
        return session.request(method, self._target(url), headers=headers, allow_redirects=False, **body)

    def _target(self, url: str) -> URL:
        """Return an address that the policy allows. A server has few addresses, so each is checked and parsed once; the
        result of resolving a name is checked again for every connection."""
        target = self._targets.get(url)
        if target is None:
            problem = check_url(url, self._policy)
            if problem is not None:
                raise CallFailed(Category.PROVIDER_ERROR, f"the {self._name}'s address {problem}")
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            target = self._targets[url] = URL(url)
        return target

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise CallFailed unless the response is a success."""
        if self._observe is not None:
            self._observe(response.status, response.headers)
        if 200 <= response.status < 300:
            return
        detail = self.excerpt(error_text(await self._error_body(response)))
        wait = stated_wait(response.headers, now=datetime.now(UTC))
        raise failure_of(response.status, wait, name=self._name, detail=detail, check=self._hints)

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        """Return a server's own words about an error, or nothing if they do not arrive: its status is enough."""
        try:
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                return await self.whole(response)
        except (TimeoutError, aiohttp.ClientError, OSError, CallFailed):
            return b""

    async def whole(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body of a response. Raises CallFailed when it has too many bytes."""
        size = response.content_length
        if size is not None and size <= self._max_bytes and "Content-Encoding" not in response.headers:
            return await response.read()
        return b"".join([piece async for piece in self.pieces(response)])

    async def pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the body of a response as it comes. Raises CallFailed when it has too many bytes."""
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > self._max_bytes:
                raise CallFailed(
                    Category.PROVIDER_ERROR, f"the {self._name}'s response exceeds {self._max_bytes} bytes"
                )
            yield piece

    def _bounded(self, feed: Callable[[bytes], list[Part]], piece: bytes) -> list[Part]:
        try:
            return feed(piece)
        except TooLong as error:
            raise CallFailed(Category.PROVIDER_ERROR, f"the {self._name}'s response is too long: {error}") from None

    def _clean(self, body: bytes) -> bytes:
        try:
            return msgspec.json.encode(self.credentials.value(msgspec.json.decode(body)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CallFailed(
                Category.PROVIDER_ERROR, f"the {self._name}'s response is not JSON that can be read"
            ) from None

    def _connect(self) -> aiohttp.ClientSession:
        self._session = addresses.session(
            self._policy, seconds=self._timeout_seconds, headers=self._headers, resolver=self._resolver
        )
        return self._session

    def _failure(self, error: Exception) -> CallFailed:
        """Return the failure for a broken request, in the system's own words; other texts may quote the request."""
        if isinstance(error, TimeoutError):
            return CallFailed(Category.TIMEOUT, f"the {self._name} did not respond within {self._timeout_seconds:g} s")
        cause: Exception = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        for refused in (cause, cause.__cause__):
            if isinstance(refused, AddressRefused):
                return CallFailed(Category.PROVIDER_ERROR, str(refused))
        said = f": {self.masked(cause.strerror)}" if isinstance(cause, OSError) and cause.strerror else ""
        return CallFailed(
            Category.PROVIDER_ERROR, f"the connection to the {self._name} failed ({type(error).__name__}{said})"
        )


def media_type_of(response: aiohttp.ClientResponse) -> str:
    """Return the media type of a response in lower case, without parameters."""
    stated: str = response.headers.get("Content-Type", "")
    return stated.partition(";")[0].strip().lower()


def as_json(body: bytes, what: str = "the server's response") -> bytes:
    """Return ``body``, which must be JSON that can be read; raises CallFailed."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed(Category.PROVIDER_ERROR, f"{what} is not JSON") from None
    return body
