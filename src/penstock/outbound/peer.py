"""Talking to a server behind a model: requests, bounded answers, streams, and what each way to fail means.

What the ``http`` and ``openai`` runtimes share with the providers of speech and language. Used in replicas: imports
stay within msgspec, aiohttp and the standard library.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from penstock.event_stream import Events, Lines, TooLong
from penstock.masking import SHORTEST, Masker, spelled
from penstock.outbound import addresses
from penstock.outbound.addresses import AddressRefused, Policy
from penstock.outbound.failure import CallFailed

MAX_RESPONSE_BYTES: Final = 64 * 2**20  # bytes
_EXCERPT_READ: Final = 4096  # bytes, or characters, of them that are read
_EXCERPT_LENGTH: Final = 300  # characters of a server's own words in an error
_MAX_RETRY_AFTER: Final = timedelta(days=7)
_ERROR_BODY_SECONDS: Final = 10.0
_LARGE_BODY_BYTES: Final = 2**16  # bytes
_LARGE_JSON_BYTES: Final = 2**18  # bytes; what is larger is cleaned beside the event loop
_MAX_LINE_BYTES: Final = 8 * 2**20  # bytes of one line of a stream
_CALLERS_FAULT: Final = frozenset({400, 413, 422})
_TOO_SLOW: Final = frozenset({408, 504})
ObserveHead = Callable[[int, Mapping[str, str]], None]
Part = TypeVar("Part")
_HIDING: Final = re.compile(rb"\\(?:/|u00[0-7])")  # spellings of plain characters inside JSON


class Peer:
    """One server, under one policy, with pooled connections. Raises CallFailed only.

    ``hints`` says what to check when the server refuses credentials, or knows no such address. ``secrets`` are masked
    in every message, ``credentials``, which stand in no text by chance, in answers too; ``name`` is what messages call
    the server; ``observe`` is told the status and headers of every answer. ``close`` it at the end.
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
        self._hints = hints or {}
        self._name = name
        self._resolver = resolver
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, url: str, *, headers: Mapping[str, str], **body: Any) -> tuple[bytes, str]:
        """A request and its whole answer: the bytes, and their media type in lower case without parameters."""
        async with self.open(url, headers=headers, **body) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return await self._whole(response), kind

    async def get(self, url: str, *, headers: Mapping[str, str]) -> bytes:
        """What is at an address."""
        async with self.open(url, headers=headers, method="GET") as response:
            return await self._whole(response)

    @asynccontextmanager
    async def open(
        self, url: str, *, headers: Mapping[str, str], method: str = "POST", **body: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read by the block; its status is 2xx."""
        data = body.get("data")
        if isinstance(data, bytes) and len(data) > _LARGE_BODY_BYTES:
            body["data"] = io.BytesIO(data)  # written in pieces: a large body holds up nobody
        problem = addresses.check_url(url, self._policy)
        if problem is not None:
            raise CallFailed("provider", f"the {self._name}'s address {problem}")
        try:
            # A redirect would take the request, and our credentials, to another address.
            async with self._connected().request(
                method, url, headers=headers, allow_redirects=False, **body
            ) as response:
                if self._observe is not None:
                    self._observe(response.status, response.headers)
                if not 200 <= response.status < 300:
                    raise self._refused(response.status, response.headers, await self._error_body(response))
                yield response
        except TimeoutError:
            raise CallFailed("timeout", f"the {self._name} did not answer within {self._timeout_seconds:g} s") from None
        except AddressRefused as error:
            raise CallFailed("provider", str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None

    async def lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The lines of a streamed answer as they come, without their ends; bounded as the whole answer is."""
        lines = Lines(_MAX_LINE_BYTES)
        async for piece in self._pieces(response):
            for line in self._bounded(lines.feed, piece):
                yield line
        for line in lines.end():
            yield line

    async def events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The data of server-sent events, as they come; comments and other fields are passed over."""
        events = Events(_MAX_LINE_BYTES)
        async for piece in self._pieces(response):
            for event in self._bounded(events.feed, piece):
                yield event.data
        for event in events.end():
            yield event.data

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > self._max_bytes:
                raise CallFailed("provider", f"the {self._name}'s answer exceeds {self._max_bytes} bytes")
            yield piece

    def _bounded(self, feed: Callable[[bytes], list[Part]], piece: bytes) -> list[Part]:
        try:
            return feed(piece)
        except TooLong as error:
            raise CallFailed("provider", f"of the {self._name}'s answer {error}") from None

    def masked(self, text: str) -> str:
        """``text`` without our secrets."""
        return self._secrets.text(text)

    async def cleaned(self, body: bytes) -> bytes:
        """JSON as it may be kept: without our credentials, however they are spelled, and without U+0000, which means
        nothing in a text. Raises CallFailed for what would have to be cleaned and cannot be read."""
        if not _HIDING.search(body) and not self.credentials.within(body):
            return body
        return await asyncio.to_thread(self._clean, body) if len(body) > _LARGE_JSON_BYTES else self._clean(body)

    def _clean(self, body: bytes) -> bytes:
        try:
            return msgspec.json.encode(self.credentials.value(msgspec.json.decode(body)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CallFailed("provider", f"the {self._name}'s answer is not JSON that can be read") from None

    def excerpt(self, text: str) -> str:
        """A server's own words, as much of them as an error tells, without our secrets."""
        plain = self.masked(text[:_EXCERPT_READ])
        part = self._secrets.unfinished(plain)  # of one whose rest was cut off
        plain = plain[: len(plain) - part].replace("\0", "") if part >= SHORTEST else plain.replace("\0", "")
        line = " ".join(plain.split())
        return line if len(line) <= _EXCERPT_LENGTH else line[: _EXCERPT_LENGTH - 1] + "…"

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        """What a server says about an error; its status counts even when that does not arrive."""
        try:
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                return await self._whole(response)
        except (TimeoutError, aiohttp.ClientError, OSError, CallFailed):
            return b""

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        return b"".join([piece async for piece in self._pieces(response)])

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = addresses.session(
                self._policy, seconds=self._timeout_seconds, headers=self._headers, resolver=self._resolver
            )
        return self._session

    def _broken(self, error: Exception) -> CallFailed:
        """The system's own words for a refused connection; other texts may quote the request."""
        cause: Exception = error
        if isinstance(error, aiohttp.ClientConnectorError):
            cause = error.os_error
            if isinstance(cause.__cause__, AddressRefused):
                return CallFailed("provider", str(cause.__cause__))
            if isinstance(cause, AddressRefused):
                return CallFailed("provider", str(cause))
        said = f": {self.masked(cause.strerror)}" if isinstance(cause, OSError) and cause.strerror else ""
        return CallFailed("provider", f"the connection to the {self._name} failed ({type(error).__name__}{said})")

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> CallFailed:
        detail = self.excerpt(error_text(body))
        said = f"{status}: {detail}" if detail else f"{status}"
        wait = retry_after(headers.get("Retry-After"), now=datetime.now(UTC))
        seconds = None if wait is None else wait.total_seconds()
        if status == 429:
            return CallFailed("rate_limited", f"the {self._name} limits us ({said})", retry_after=seconds)
        if status in _TOO_SLOW:
            return CallFailed("timeout", f"the {self._name} timed out ({said})", retry_after=seconds)
        if status in _CALLERS_FAULT:
            return CallFailed("bad_input", f"the {self._name} refuses the input ({said})")
        if status in {401, 403}:
            message = f"the {self._name} refuses our credentials{self._hint('credentials')} ({said})"
        elif status == 404:
            message = f"the {self._name} knows no such address or model{self._hint('address')} ({said})"
        elif 300 <= status < 400:
            message = f"the {self._name} redirects, which is not followed{self._hint('address')} ({status})"
        elif status >= 500:
            message = f"the {self._name} failed ({said})"
        else:
            message = f"the {self._name} answered unexpectedly ({said})"
        return CallFailed("provider", message, retry_after=seconds)

    def _hint(self, name: str) -> str:
        return f": check {self._hints[name]}" if name in self._hints else ""


def retry_after(header: str | None, *, now: datetime) -> timedelta | None:
    """What a Retry-After header asks for, in seconds or as a date; None when it is absent or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        wait = timedelta(seconds=float(text))
    else:
        try:
            when = parsedate_to_datetime(text)
            wait = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - now
        except (ValueError, OverflowError):  # a year or an offset that no date has
            return None
    return min(max(wait, timedelta(0)), _MAX_RETRY_AFTER)


def error_text(body: bytes) -> str:
    """A server's own words about an error; see ``Peer.excerpt`` for how much of it may be told."""
    try:
        said = msgspec.json.decode(body)
        error = said.get("error", said) if isinstance(said, dict) else said
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        if isinstance(message, str):
            return message
        body = msgspec.json.encode(said)  # in one spelling, in which secrets are known
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return body[:_EXCERPT_READ].decode("utf-8", "replace")


def as_json(body: bytes, what: str = "the server's answer") -> bytes:
    """``body``, which must be JSON that can be read; raises CallFailed."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed("provider", f"{what} is not JSON") from None
    return body
