"""One HTTP request, as handlers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from penstock.errors import InvalidInput, Overloaded, TooLarge, Unauthorized, Unsupported
from penstock.processes.signal import Signal
from penstock.tenants.principal import Principal
from penstock.web.body import Body, Disconnected
from penstock.web.body_space import BodySpace
from penstock.web.reading import convert, decode

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
_SMALL_BODY: Final = 64 * 1024  # bytes; smaller bodies take no space of the ``BodySpace``


@lru_cache(maxsize=64)
def is_json(content_type: str) -> bool:
    """Return whether a body of this type may be read as JSON, as one without a type and one of ``curl --data`` may."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"", "application/json", "application/x-www-form-urlencoded"} or kind.endswith("+json")


class Request:
    """A request: its parameters, headers and body.

    ``left`` is set when the client goes away, ``stopping`` when the process begins to stop: a handler that waits should
    then return what it has. ``principal`` is set by the access check; it is None on routes that are open to everyone.
    ``max_body_bytes`` is the limit of the route; a handler may lower it before it reads.
    """

    __slots__ = (
        "_body_space",
        "body_stream",
        "by_ticket",
        "client",
        "headers",
        "held_bytes",
        "left",
        "max_body_bytes",
        "method",
        "path_values",
        "principal",
        "query_string",
        "scope",
        "stopping",
        "url_path",
        "withdrawn",
    )

    principal: Principal

    def __init__(
        self,
        *,
        method: str,
        url_path: str,
        query_string: bytes = b"",
        headers: Mapping[bytes, bytes],
        body: Body,
        client: str = "",
        left: Signal | None = None,
        stopping: Signal | None = None,
        body_space: BodySpace | None = None,
    ) -> None:
        self.method = method  # a GET route also serves HEAD
        self.url_path = url_path  # as sent, percent-encoded
        self.query_string = query_string  # as in the URL
        self.headers = headers  # by lower-case name; the first of each name
        self.body_stream = body
        self.client = client  # the address of the other end of the connection; empty for a unix socket
        self.left = left or Signal()
        self.stopping = stopping or Signal()
        self.max_body_bytes = 64 * 1024
        self.held_bytes = 0  # space that its body takes, until the response was sent
        self._body_space = body_space
        self.by_ticket = False  # the sender was identified by a ticket in the URL
        self.scope = ""  # the one that the route needs
        self.withdrawn = ""  # why the sender's key no longer allows this request
        self.path_values: Mapping[str, Any] = {}  # of the route's path parameters, converted

    def header(self, name: bytes) -> str | None:
        """Return a header by its lower-case name; the first if there are several."""
        value = self.headers.get(name)
        return None if value is None else str(value, "latin-1")

    def path(self, name: str) -> str:
        """Return a text path parameter by its name in the route."""
        part: str = self.path_values[name]
        return part

    def path_id(self) -> UUID:
        """Return the path parameter ``id`` of a route that declares it as a UUID."""
        value: UUID = self.path_values["id"]
        return value

    def query(self, allowed: Mapping[str, bool]) -> dict[str, list[str]]:
        """Return the query parameters by name; ``allowed`` maps each name to whether it may be repeated.

        Raises InvalidInput for an unknown name, or one that is repeated and may not be.
        """
        raw = self.query_string
        if not raw:
            return {}
        found: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
        except ValueError:
            raise InvalidInput.of("query", "must be name=value pairs, percent-encoded as UTF-8") from None
        for name, value in pairs:
            if name not in allowed:
                names = ", ".join(allowed) or "none"
                raise InvalidInput.of(name[:100], f"is not a parameter of this path; there are: {names}")
            if name in found and not allowed[name]:
                raise InvalidInput.of(name, "must be given once")
            found.setdefault(name, []).append(value)
        return found

    def query_as(self, kind: type[S]) -> S:
        """Return the query as a Struct whose fields are the parameters; each may be given once. Raises InvalidInput."""
        query = self.query(dict.fromkeys(kind.__struct_encode_fields__, False))
        return convert({name: values[0] for name, values in query.items()}, kind)

    async def body(self) -> bytes:
        """Return the whole body of a request whose type is JSON or not stated.

        Raises TooLarge, Unsupported, Overloaded or Disconnected.
        """
        kind = self.header(b"content-type")
        if kind is not None and not is_json(kind):
            raise Unsupported(f"the body must be application/json, not {kind[:100]}")
        return await self.content()

    async def content(self) -> bytes:
        """Return the whole body, whatever its type.

        Raises TooLarge, Unsupported, Overloaded, Disconnected, or Unauthorized when the sender's key is revoked before
        all of it has arrived.
        """
        await self.hold_body()
        if self.body_stream.complete:
            content = await self._content()
        else:
            with self.while_allowed(self._refuse_body):
                content = await self._content()
        self._check_allowed()
        return content

    async def _content(self) -> bytes:
        stream = self.body_stream
        chunk = await stream.read()
        if stream.complete and not stream.buffered:  # it came in one piece, as most do
            if len(chunk) > self.max_body_bytes:
                raise self._too_large()
            self._hold_less(len(chunk))
            return chunk
        chunks, size = [chunk], len(chunk)
        while chunk:
            if size > self.max_body_bytes:
                raise self._too_large()
            chunk = await stream.read()
            chunks.append(chunk)
            size += len(chunk)
        self._hold_less(size)
        return b"".join(chunks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, whatever its type.

        Raises TooLarge, Unsupported, Disconnected, or Unauthorized when the sender's key is revoked meanwhile. A
        handler that keeps all chunks calls ``hold_body`` first.
        """
        self._check_size()
        size = 0
        with self.while_allowed(self._refuse_body):
            while chunk := await self.body_stream.read():
                size += len(chunk)
                if size > self.max_body_bytes:
                    raise self._too_large()
                yield chunk
        self._check_allowed()
        self._hold_less(size)

    async def hold_body(self) -> None:
        """Wait until there is memory for the whole body, which then counts as held until the response was sent.

        The socket is not read meanwhile. Raises TooLarge, Unsupported, or Overloaded when it takes too long.
        """
        self._check_size()
        size = self._possible_size()
        if size >= _SMALL_BODY and self._body_space is not None and not self.held_bytes:
            self.held_bytes = await self._body_space.take(size)

    def hold_more(self, size: int) -> None:
        """Count ``size`` bytes that were fetched for the request, as its body counts. Raises Overloaded."""
        if self._body_space is None:
            return
        if not self._body_space.try_take(size):
            raise Overloaded("the data of other requests takes all memory that is set aside for it")
        self.held_bytes += size

    def release_body(self) -> None:
        """Return the space of the body."""
        size, self.held_bytes = self.held_bytes, 0
        if self._body_space is not None:
            self._body_space.give_back(size)

    def _hold_less(self, size: int) -> None:
        """Return space that the body did not need."""
        if self.held_bytes > size and self._body_space is not None:
            self._body_space.give_back(self.held_bytes - size)
            self.held_bytes = size

    def _possible_size(self) -> int:
        """Return the size of the body, or the most that it may have if the client does not state it."""
        if self.body_stream.complete:
            return self.body_stream.buffered
        declared = self.headers.get(b"content-length")
        return self.max_body_bytes if declared is None else int(declared)

    def _check_size(self) -> None:
        """Refuse a body whose headers declare it compressed or too large."""
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise Unsupported("compressed request bodies are not accepted: send it without Content-Encoding")
        declared = self.headers.get(b"content-length")
        if declared is not None and int(declared) > self.max_body_bytes:
            raise TooLarge(f"the body has {int(declared)} bytes; at most {self.max_body_bytes} are allowed")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body has more than the {self.max_body_bytes} bytes allowed")

    async def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Return the body as a typed value; raises MalformedBody or InvalidInput, naming the field."""
        return decode(await self.body(), decoder)

    async def gone(self) -> bool:
        """Return whether the client has gone away. Call it only after the body was read."""
        await asyncio.sleep(0)  # the event loop handles the socket first
        return self.left.is_set()

    @contextmanager
    def while_allowed(self, callback: Callable[[], object]) -> Iterator[None]:
        """Have ``callback`` called if the sender's key is revoked, or loses the route's scope, while the block runs.

        ``withdrawn`` then has the reason.
        """
        grant = self.principal.grant if hasattr(self, "principal") else None
        if grant is None:
            yield
            return

        def withdraw(reason: str) -> None:
            self.withdrawn = reason
            callback()

        with grant.watching(self.scope, withdraw):
            reason = self._withdrawal()  # since the check at the beginning of the request
            if reason:
                asyncio.get_running_loop().call_soon(withdraw, reason)
            yield

    def _withdrawal(self) -> str:
        """Return why the sender's key no longer allows this request; empty if it does."""
        grant = self.principal.grant if hasattr(self, "principal") else None
        return "" if grant is None else grant.withdrawn(self.scope, since=self.principal)

    def _check_allowed(self) -> None:
        """Raise Unauthorized if the sender's key no longer allows this request: its body may have taken minutes."""
        reason = self._withdrawal()
        if reason:
            raise Unauthorized(reason)

    def _refuse_body(self) -> None:
        self.body_stream.fail(Unauthorized(self.withdrawn))

    async def unless_left(self, work: Awaitable[T]) -> T | None:
        """Return the result of ``work``, or None when the process begins to stop first.

        Raises Disconnected when the client leaves first, and Unauthorized when its key is revoked. ``work`` is then
        cancelled.
        """
        task = asyncio.ensure_future(work)
        with self.left.calling(task.cancel), self.stopping.calling(task.cancel), self.while_allowed(task.cancel):
            try:
                return await task
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not task.cancelled() or (current is not None and current.cancelling()):
                    raise
                if self.left.is_set():
                    raise Disconnected from None
                if self.withdrawn:
                    raise Unauthorized(self.withdrawn) from None
                if self.stopping.is_set():
                    return None
                raise
