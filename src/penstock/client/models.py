"""The client's calls about models: predict, stream, and calls to read and change models."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from penstock.client.transport import Query, Transport, Unreachable, error_of
from penstock.client.views import MediaFile
from penstock.errors import ServiceError
from penstock.event_stream import events_of

File = Path | bytes | tuple[str, bytes, str]  # a path, bytes, or (file name, bytes, media type)

_MODELS: Final = "/api/v1/models"
_LARGEST_BUFFER: Final = 2**20  # bytes read ahead of a stream


class ModelEvent(Struct, frozen=True, kw_only=True):
    """One event of a streamed call: ``chunk`` and ``progress`` with their value, ``log`` with level and message, and
    finally ``done``, whose data has ``output`` unless the output was sent in chunks."""

    type: str
    data: Any


class ModelCalls:
    """The calls of ``Client`` about models.

    Calls to models are never repeated, not even after Overloaded: the caller decides whether a retry is still useful,
    and ``retry_after`` says when. Fields of the input may be given as named arguments, besides ``input`` or instead of
    it; a field with the name of an option, such as ``version``, has to be in ``input``.
    """

    _transport: Transport

    async def predict(
        self,
        name: str,
        /,
        input: object = None,  # noqa: A002 - the contract's word
        *,
        files: Mapping[str, File] | None = None,
        version: str | None = None,
        request_id: str | None = None,
        timeout: timedelta | None = None,
        **fields: object,
    ) -> Any:
        """Return a model's output: its JSON value, or a MediaFile if it is one piece of media.

        ``input`` is anything that can be written as JSON; ``files`` are media by the names of their fields. ``timeout``
        limits the whole call, which then raises Unreachable; None waits as long as the gateway does.
        """
        path, query = f"{_path(name)}/predict", _given(version=version)
        async with self._open(path, _merged(input, fields), files, query, request_id, timeout) as response:
            try:
                content = await response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise self._transport.unreachable(error) from error
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                return _decoded(content)
            disposition = response.content_disposition
            return MediaFile(data=content, media_type=kind, name=None if disposition is None else disposition.filename)

    async def stream(
        self,
        name: str,
        /,
        input: object = None,  # noqa: A002 - the contract's word
        *,
        files: Mapping[str, File] | None = None,
        version: str | None = None,
        request_id: str | None = None,
        logs: bool = False,
        **fields: object,
    ) -> AsyncIterator[ModelEvent]:
        """Yield a call's events as they happen; the last one is ``done``. Raises the error with which the call ends, if
        any. Leaving the loop abandons the call."""
        call = self.stream_json(
            name, _merged(input, fields), files=files, version=version, request_id=request_id, logs=logs
        )
        async with aclosing(call):
            async for kind, data in call:
                yield ModelEvent(type=kind, data=_decoded(data))

    async def stream_json(
        self,
        name: str,
        /,
        input: object = None,  # noqa: A002 - the contract's word
        *,
        files: Mapping[str, File] | None = None,
        version: str | None = None,
        request_id: str | None = None,
        logs: bool = False,
    ) -> AsyncGenerator[tuple[str, bytes]]:
        """Do the same as ``stream``, but yield each event's type and its data as the JSON that the gateway sent."""
        path, query = f"{_path(name)}/stream", _given(version=version, logs="true" if logs else None)
        async with self._open(path, input, files, query, request_id, None) as response:
            try:
                async for event in events_of(response.content.iter_any()):
                    if event.name == "error":
                        raise error_of(500, event.data, {})
                    if event.name == "revoked":
                        raise error_of(401, event.data, {})
                    yield event.name, event.data
                    if event.name == "done":
                        return
            except (aiohttp.ClientError, OSError) as error:
                raise self._transport.unreachable(error) from error
        raise Unreachable("the stream ended before the call did")

    async def models(self, *, all_tenants: bool = False) -> dict[str, Any]:
        """Return the models that this client can call, and the manifests that cannot be read, in ``models`` and
        ``problems``; an operator may list those of all tenants."""
        query = {"all_tenants": "true"} if all_tenants else None
        return await self._transport.call("GET", _MODELS, dict[str, Any], query=query)

    async def model(self, name: str) -> dict[str, Any]:
        """Return all details of one model."""
        return await self._transport.call("GET", _path(name), dict[str, Any])

    async def add_model(self, manifest: Mapping[str, Any], *, replace: bool = False) -> dict[str, Any]:
        """Register a model by a manifest with runtime ``http`` or ``openai``, or by a name in the server's folder."""
        query = {"replace": "true"} if replace else {}
        return await self._transport.call(
            "POST", _MODELS, dict[str, Any], body=manifest, query=query, repeatable=False, wait=_LOADING
        )

    async def remove_model(self, name: str, *, version: str | None = None) -> None:
        """Remove a model, or one version of it; its running calls are finished."""
        await self._transport.call("DELETE", _path(name), object, query=_given(version=version), repeatable=False)

    async def reload_model(self, name: str, *, version: str | None = None) -> dict[str, Any]:
        """Import and load a model again; calls continue meanwhile."""
        query = _given(version=version)
        return await self._transport.call(
            "POST", f"{_path(name)}/reload", dict[str, Any], query=query, repeatable=False, wait=_LOADING
        )

    async def model_logs(
        self,
        name: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        level: str | None = None,
        request_id: str | None = None,
        version: str | None = None,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Return the newest matching lines of a model's log, oldest first. ``level`` is the lowest level returned."""
        query = _log_query(since=since, until=until, level=level, request_id=request_id, version=version, limit=limit)
        page = await self._transport.call("GET", f"{_path(name)}/logs", dict[str, Any], query=query)
        lines: list[dict[str, Any]] = page["lines"]
        return lines

    async def follow_model_logs(
        self,
        name: str,
        *,
        since: datetime | None = None,
        level: str | None = None,
        request_id: str | None = None,
        version: str | None = None,
        limit: int = 100,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the newest lines, then new ones as they are written, until the connection ends."""
        query = _log_query(since=since, level=level, request_id=request_id, version=version, limit=limit)
        url = f"{self._transport.url}{_path(name)}/logs"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._transport.session().get(
                url, params=query | {"follow": "true"}, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read(), response.headers)
                async for event in events_of(response.content.iter_any()):
                    yield _decoded(event.data)
        except (aiohttp.ClientError, OSError) as error:
            raise self._transport.unreachable(error) from error

    async def clean_model_logs(self, name: str) -> int:
        """Delete a model's log; return how many lines there were."""
        found = await self._transport.call("DELETE", f"{_path(name)}/logs", dict[str, int])
        return found["cleared"]

    def _open(
        self,
        path: str,
        input: object,  # noqa: A002
        files: Mapping[str, File] | None,
        query: dict[str, str],
        request_id: str | None,
        timeout: timedelta | None,
    ) -> _Opened:
        headers = {"X-Request-ID": request_id} if request_id else {}
        body: Any
        if files:
            body = _form(input, files)
        else:
            headers["Content-Type"] = "application/json"
            body = io.BytesIO(msgspec.json.encode({} if input is None else input))
        return _Opened(self._transport, path, body, query, headers, timeout)


_LOADING: Final = 600.0  # seconds that a gateway may need to import and load


class _Opened:
    """Open a call to read its response; errors of the gateway are raised on entry."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        body: Any,
        query: Query,
        headers: Mapping[str, str],
        timeout: timedelta | None,
    ) -> None:
        self._transport = transport
        total = None if timeout is None else timeout.total_seconds()
        self._request = transport.session().post(
            transport.url + path,
            data=body,
            params=dict(query),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=total, sock_connect=10),
            read_bufsize=_LARGEST_BUFFER,
        )

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response = await self._request.__aenter__()
            if response.status < 400:
                return response
            async with response:  # also closed when the caller is cancelled meanwhile
                raise error_of(response.status, await response.read(), response.headers)
        except (aiohttp.ClientError, OSError) as error:
            raise self._transport.unreachable(error) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)


def _form(input: object, files: Mapping[str, File]) -> aiohttp.FormData:  # noqa: A002
    form = aiohttp.FormData(default_to_multipart=True)
    if input is not None:
        form.add_field("input", msgspec.json.encode(input).decode(), content_type="application/json")
    for name, file in files.items():
        match file:
            case Path():
                form.add_field(name, io.BytesIO(file.read_bytes()), filename=file.name)
            case bytes():
                form.add_field(name, io.BytesIO(file), filename=name)
            case (filename, data, media_type):
                form.add_field(name, io.BytesIO(data), filename=filename, content_type=media_type)
    return form


def _merged(input: object, fields: Mapping[str, object]) -> object:  # noqa: A002
    """Return the input with the fields given as named arguments."""
    if not fields:
        return input
    if input is None:
        return fields
    if not isinstance(input, Mapping):
        raise TypeError(
            f"fields such as {next(iter(fields))!r} can only be added to an input that is an object, not {input!r:.50}"
        )
    twice = sorted(fields.keys() & input.keys())
    if twice:
        raise TypeError(f"the field {twice[0]!r} is given twice: in the input and as an argument")
    return {**input, **fields}


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.MsgspecError as error:
        raise ServiceError(f"this client does not understand the response: {error}") from error


def _path(name: str) -> str:
    return f"{_MODELS}/{quote(name, safe='')}"


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _log_query(**values: object) -> dict[str, str]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in values.items()
        if value is not None
    }
