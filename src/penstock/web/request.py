"""An HTTP request, close to ASGI: bytes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from starlette.types import Receive, Scope

from penstock.errors import InvalidInput, TooLarge, Unsupported
from penstock.tenants.principal import Principal
from penstock.web.reading import decode

T = TypeVar("T")


@lru_cache(maxsize=64)
def is_json(content_type: str) -> bool:
    """Whether a body of this type may be read as JSON: nothing stated counts, and what ``curl --data`` states."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"", "application/json", "application/x-www-form-urlencoded"} or kind.endswith("+json")


class Disconnected(Exception):
    """The client has gone; there is nobody to answer."""


class Request:
    """A request: its parameters, headers and body.

    ``stopping`` is set when the process begins to stop: a handler that waits should then return what it has.
    ``principal`` is set by the access check; routes that are open to everyone have none.
    """

    __slots__ = ("_receive", "_scope", "max_body_bytes", "principal", "stopping")

    principal: Principal

    def __init__(self, scope: Scope, receive: Receive, *, max_body_bytes: int, stopping: asyncio.Event) -> None:
        self._scope = scope
        self._receive = receive
        self.max_body_bytes = max_body_bytes
        self.stopping = stopping

    @property
    def method(self) -> str:
        """The request's method; a route of GET answers HEAD too."""
        method: str = self._scope["method"]
        return method

    def header(self, name: bytes) -> str | None:
        """A header's value by its lower-case name; the first if there are several."""
        for key, value in self._scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    def path_id(self) -> UUID:
        """The ``{id}`` of the path, in the one spelling that answers use; raises InvalidInput."""
        text: str = self._scope["path_params"]["id"]
        try:
            job_id = UUID(text)
        except ValueError:
            job_id = None
        if job_id is None or str(job_id) != text.lower():
            raise InvalidInput.of("id", "must be a UUID, as in the job's id")
        return job_id

    def query(self, allowed: Mapping[str, bool]) -> dict[str, list[str]]:
        """Query parameters by name; ``allowed`` says which there are, and which may be repeated.

        Raises InvalidInput for an unknown name, or one that is repeated where that means nothing.
        """
        raw = self._scope["query_string"]
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

    def path(self, name: str) -> str:
        """A part of the path by its name in the route."""
        part: str = self._scope["path_params"][name]
        return part

    async def body(self) -> bytes:
        """The whole body, which says that it is JSON or nothing; raises TooLarge, Unsupported or Disconnected."""
        kind = self.header(b"content-type")
        if kind is not None and not is_json(kind):
            raise Unsupported(f"the body must be application/json, not {kind[:100]}")
        chunks = [chunk async for chunk in self.chunks()]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, whatever it is; raises TooLarge, Unsupported or Disconnected."""
        encoding = self.header(b"content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            raise Unsupported("compressed request bodies are not accepted: send it without Content-Encoding")
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > self.max_body_bytes:
            raise TooLarge(f"the body has {declared} bytes; at most {self.max_body_bytes} are allowed")
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_body_bytes:
                raise TooLarge(f"the body has more than the {self.max_body_bytes} bytes allowed")
            yield chunk
            if not message.get("more_body", False):
                return

    async def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body as a typed value; raises MalformedBody or InvalidInput, naming the field."""
        return decode(await self.body(), decoder)

    @property
    def query_string(self) -> bytes:
        """The query as it stands in the URL."""
        raw: bytes = self._scope["query_string"]
        return raw

    async def disconnected(self) -> None:
        """Return when the client goes away. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def gone(self) -> bool:
        """Whether the client has gone away. Only after the body was read."""
        leaving = asyncio.ensure_future(self.disconnected())
        await asyncio.sleep(0)
        if leaving.done():
            return True
        leaving.cancel()
        return False

    async def unless_left(self, work: Awaitable[T]) -> T | None:
        """What ``work`` answers; None when the process is told to stop first.

        Raises Disconnected when the client leaves first. Whatever does not win is cancelled.
        """
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(work),
            asyncio.ensure_future(self.stopping.wait()),
            asyncio.ensure_future(self.disconnected()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                result: T = tasks[0].result()
                return result
            if tasks[2].done():
                raise Disconnected
            return None
        finally:
            for task in tasks:
                task.cancel()
