"""The client's HTTP layer: JSON bodies, errors from problem details, and retries of calls that may be repeated."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from random import random
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from penstock.errors import (
    CallerError,
    FieldProblem,
    InvalidInput,
    Overloaded,
    PenstockError,
    QuotaExceeded,
    ServiceError,
)

T = TypeVar("T")
Query = Mapping[str, str | Sequence[str]]

_PAUSES: Final = (0.1, 0.3, 1.0, 3.0)  # seconds before each retry, with jitter
_MAX_RETRY_AFTER_SECONDS: Final = 30.0
_LARGE: Final = 2**19  # bytes


def naming(tenant: str | None) -> dict[str, str] | None:
    """Return the header of a request about another tenant's data."""
    return None if tenant is None else {"Penstock-Tenant": _header("tenant", tenant)}


class Unreachable(ServiceError):
    """The gateway cannot be reached, or the connection broke before it responded."""

    code = "unreachable"


class _Refused(Exception):
    """An error response, with its status and the seconds to wait that it states."""

    def __init__(self, error: PenstockError, status: int, wait: float | None) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.wait = wait


class _Problem(Struct):
    """RFC 9457 problem details, as far as the client reads them."""

    code: str = ""
    title: str = ""
    detail: str = ""
    errors: list[dict[str, str]] = []
    engine_code: int | None = None


class Transport:
    """One connection pool to one gateway."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout: timedelta,
        tenant: str | None = None,
        user: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, not {url[:100]!r}")
        self.url = url.rstrip("/")
        self._token = token
        self._timeout = timeout.total_seconds()
        self._session: aiohttp.ClientSession | None = None
        self._named: dict[str, Transport] = {}  # the same pool for requests about other tenants' data
        self._pool: Transport | None = None  # the owner of the pool, if it is not this one
        self._headers = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        self._headers |= naming(tenant) or {}
        if user is not None:
            self._headers["Penstock-User"] = _header("user", user)

    def for_tenant(self, name: str) -> Transport:
        """Return a transport on the same pool whose requests are about a tenant's data; closed with this one."""
        if name not in self._named:
            other = Transport(self.url, token=self._token, timeout=timedelta(seconds=self._timeout))
            other._pool = self
            other._headers = self._headers | (naming(name) or {})
            self._named[name] = other
        return self._named[name]

    async def close(self) -> None:
        for other in self._named.values():
            await other.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def session(self) -> aiohttp.ClientSession:
        """The pool, opened on first use because it belongs to the running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=0) if self._pool is None else self._pool.session().connector,
                connector_owner=self._pool is None,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def call(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        body: object = None,
        content: bytes | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        wait: float = 0.0,
    ) -> T:
        """Send one request and return the response as ``result``; raises the error that problem details describe.

        A ``repeatable`` request is retried while the gateway is unavailable. Any request is retried if its connection
        was refused, because it was never sent. The request's body is ``body`` as JSON, or ``content``. ``wait`` is the
        time in seconds that the gateway may take beyond the usual.
        """
        data = content if body is None else msgspec.json.encode(body)
        pauses = iter(_PAUSES)
        received: bytes | None = None
        while received is None:
            try:
                received = await self._send(method, path, data, query, headers, wait)
            except _Refused as refused:
                if not repeatable or refused.status != 503:
                    raise refused.error from None
                await _pause(pauses, refused.error, refused.wait)
            except Unreachable as error:
                never_sent = isinstance(error.__cause__, aiohttp.ClientConnectorError)
                if not repeatable and not never_sent:
                    raise
                await _pause(pauses, error, None)
        try:
            return msgspec.json.decode(received or b"null", type=result)
        except msgspec.MsgspecError as error:
            raise ServiceError(f"{method} {path}: this client does not understand the response: {error}") from error

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        query: Query | None,
        headers: Mapping[str, str] | None,
        wait: float,
    ) -> bytes:
        sent_headers = dict(headers or {})
        if data is not None:
            sent_headers.setdefault("Content-Type", "application/json")
        try:
            async with self.session().request(
                method,
                self.url + path,
                data=data
                if data is None or len(data) < _LARGE
                else io.BytesIO(data),  # large bodies are sent in pieces
                params=_pairs(query),
                headers=sent_headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout + wait),
            ) as response:
                content = await response.read()
                if response.status >= 400:
                    error = error_of(response.status, content, response.headers)
                    raise _Refused(error, response.status, _seconds(response.headers.get("Retry-After")))
                return content
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise self.unreachable(error) from error

    def unreachable(self, error: BaseException) -> Unreachable:
        """Return the error for a connection that could not be made or broke."""
        reason = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = error.os_error.strerror or reason
        return Unreachable(f"no response from {self.url}: {reason}")


def error_of(status: int, content: bytes, headers: Mapping[str, str]) -> PenstockError:
    """Return the error of a response, by its ``code`` or, without one, by its status."""
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = _Problem(detail=content[:200].decode("utf-8", "replace"))
    error = _error_of(problem, status)
    error.engine_code = problem.engine_code
    wait = _seconds(headers.get("Retry-After"))
    if isinstance(error, Overloaded | QuotaExceeded) and wait is not None:
        error.retry_after = timedelta(seconds=wait)
    return error


def _error_of(problem: _Problem, status: int) -> PenstockError:
    if problem.errors and problem.code == InvalidInput.code:
        return InvalidInput(
            [FieldProblem(field=e.get("field", ""), detail=e.get("detail", "")) for e in problem.errors]
        )
    message = problem.detail or problem.title or f"HTTP status {status}"
    return error_named(problem.code, message) or (CallerError(message) if status < 500 else ServiceError(message))


def error_named(code: str, message: str, *, field: str = "request") -> PenstockError | None:
    """Return the error with a stable ``code``, or None if this client does not know it; ``field`` is the field that
    InvalidInput names."""
    found = _CLASSES.get(code)
    if found is InvalidInput:
        return InvalidInput.of(field, message)
    return None if found is None else found(message)


async def _pause(pauses: Iterator[float], error: PenstockError, stated: float | None) -> None:
    """Wait before the next try, as long as the gateway requested, within limits; raises ``error`` after the last."""
    pause = next(pauses, None)
    if pause is None:
        raise error from error.__cause__
    await asyncio.sleep(max(pause * (0.5 + random()), min(stated or 0.0, _MAX_RETRY_AFTER_SECONDS)))


def _header(name: str, value: str) -> str:
    """Return a value that can be sent as a header; raises ValueError for any other."""
    if not value or not value.isprintable():
        raise ValueError(f"{name} must be printable characters")
    return value


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


def _pairs(query: Query | None) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        pairs += [(name, value)] if isinstance(value, str) else [(name, item) for item in value]
    return pairs


def _all_classes(root: type[PenstockError]) -> Iterator[type[PenstockError]]:
    yield root
    for child in root.__subclasses__():
        yield from _all_classes(child)


# Classes with a list of problems cannot be created from a message; of these, responses only carry InvalidInput.
_CLASSES: Final[dict[str, type[Any]]] = {
    error.code: error for error in (*_all_classes(CallerError), *_all_classes(ServiceError)) if "code" in vars(error)
}
