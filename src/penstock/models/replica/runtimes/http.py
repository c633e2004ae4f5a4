"""The runtime of models that a server elsewhere runs: it takes the input as JSON by POST.

The manifest's table::

    [http]
    url = "http://127.0.0.1:8000"    # with this alone the input is posted as it is, and the response is the output
    path = "/predict"
    headers = { Authorization = "env:MODEL_TOKEN" }   # env:NAME takes a variable of the replica's environment
    timeout = "30s"                  # by default the manifest's
    media = "data_url"               # the form of media in the JSON: "data_url", "base64", or "url" (only URLs pass);
                                     # "form": multipart/form-data with the JSON as the part "input" and media as files
    input_key = "instances"          # the input is sent as {"instances": …}
    output_key = "predictions"       # the output is this member of the response
    stream = "sse"                   # the response comes in parts: "sse" or "ndjson", each a chunk
    max_bytes = 67108864             # of a response
    networks = ["10.0.0.0/8"]        # the server's address must lie in one of these
    requests_per_minute = 600        # a limit that is known; others are learned from the server's responses

A picture, sound, video or other binary response is the output as media.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import msgspec

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.finite import not_finite_in
from penstock.models.replica.data_urls import Lifter, Unreadable, inlined, put
from penstock.models.replica.file_bytes import INLINE_BYTES, FileBytes
from penstock.models.replica.output_masking import MaskedChunks, masked_segment
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Segment, Spec
from penstock.models.replica.server_gate import ServerGate
from penstock.models.replica.server_options import (
    check_server,
    credentials_in,
    policy_of,
    seconds_of,
    secrets_in,
    server_url,
    stated_headers,
)
from penstock.outbound.peer import MAX_RESPONSE_BYTES, Peer, as_json, media_type_of

_OPTIONS = (
    "url", "path", "headers", "timeout", "media", "input_key", "output_key", "stream", "max_bytes", "networks",
    "requests_per_minute",
)  # fmt: skip
_MEDIA = ("data_url", "base64", "url", "form")
_BINARY = ("image/", "audio/", "video/")
_STREAMS = ("sse", "ndjson")
_HINTS = {"credentials": "[http] headers", "address": "[http] url and path"}


class HttpRuntime(AsyncRuntime):
    """``http``: posts the input, with pooled connections; a cancelled call closes its request."""

    name: ClassVar[str] = "http"
    registrable: ClassVar[bool] = True
    default_concurrency: ClassVar[int] = 64
    one_replica: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        options = spec.options
        self._url = server_url(options)
        self._media = options.get("media", "data_url")
        self._stream = options.get("stream")
        self._input_key: str | None = options.get("input_key")
        self._output_key: str | None = options.get("output_key")
        self._lifter = Lifter(spec.schema.output)
        headers = stated_headers(options)
        secrets = secrets_in(headers, options, self._url)
        self._gate = ServerGate(spec, name="server")
        self._peer = Peer(
            headers=headers,
            timeout_seconds=seconds_of(options, spec.timeout),
            secrets=secrets,
            credentials=credentials_in(secrets),
            policy=policy_of(options, spec.reach),
            max_bytes=options.get("max_bytes", MAX_RESPONSE_BYTES),
            hints=_HINTS,
            observe=self._gate.observe,
        )

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems = check_server(cls.name, options, "url", _OPTIONS)
        for name, allowed in (("media", _MEDIA), ("stream", _STREAMS)):
            if options.get(name, allowed[0]) not in allowed:
                problems.append((name, f"must be one of {', '.join(allowed)}"))
        for name in ("input_key", "output_key"):
            if not isinstance(options.get(name, "x"), str) or options.get(name, "x") == "":
                problems.append((name, "must be the name of a member"))
        if not isinstance(options.get("path", ""), str) or not options.get("path", "/").startswith("/"):
            problems.append(("path", 'must begin with "/"'))
        size = options.get("max_bytes", 1024)
        if not isinstance(size, int) or isinstance(size, bool) or not 1024 <= size <= 2**30:
            problems.append(("max_bytes", "must be a number of bytes from 1 KiB to 1 GiB"))
        return problems

    def describe(self) -> Schema:
        schema = self.spec.schema
        schema.cancels = True
        schema.streams = schema.streams or self._stream is not None
        return schema

    async def unload(self) -> None:
        await self._peer.close()

    async def predict(self, call: Call) -> Output | None:
        headers = {"Accept": "application/json, */*;q=0.5"}
        body: Any
        if self._media == "form":
            body = self._form(call)
        else:
            body = self._body(call)
            headers["Content-Type"] = "application/json"
        if call.request_id:
            headers["Idempotency-Key"] = call.request_id
        if self._stream is not None:
            async with self._gate.slot():
                await self._follow(call, body, headers)
            return None
        async with self._gate.slot(), self._peer.open(self._url, headers=headers, data=body) as response:
            kind = media_type_of(response)
            if kind.startswith(_BINARY) or kind == "application/octet-stream":
                return Output(b"null", [Segment(await self._media_of(call, response), kind)])
            whole = await self._peer.whole(response)
        return await self._masked(self._output(whole))

    async def _media_of(self, call: Call, response: Any) -> bytes | FileBytes:
        """Return the body of a response: in memory or, if it is large, in a file of the call."""
        held, path, size = bytearray(), None, 0
        async for piece in self._peer.pieces(response):
            held += piece
            size += len(piece)
            if len(held) > INLINE_BYTES:
                path = path or call.folder() / "response"
                await asyncio.to_thread(_append, path, bytes(held))
                held.clear()
        if path is None:
            return bytes(held)
        await asyncio.to_thread(_append, path, bytes(held))
        return FileBytes(str(path), size)

    async def _follow(self, call: Call, body: Any, headers: dict[str, str]) -> None:
        headers["Accept"] = "text/event-stream" if self._stream == "sse" else "application/x-ndjson"
        chunks = MaskedChunks(self._peer.credentials) if self._peer.credentials else None
        async with self._peer.open(self._url, headers=headers, data=body) as response:
            parts = self._peer.events if self._stream == "sse" else self._peer.lines
            async for part in parts(response):
                if part.strip() == b"[DONE]":
                    break
                if part.strip():
                    output = self._output(part)
                    for chunk in (output,) if chunks is None else chunks.feed(output):
                        await call.chunk_async(chunk)
        for chunk in chunks.end() if chunks is not None else ():
            await call.chunk_async(chunk)

    async def _masked(self, output: Output) -> Output:
        """Return an output without our credentials, which the server may echo."""
        masker = self._peer.credentials
        if not masker:
            return output
        segments = [masked_segment(masker, segment) for segment in output.segments]
        return Output(await self._peer.cleaned(output.json), segments)

    def _form(self, call: Call) -> aiohttp.FormData:
        """Return the input as a form, whose files are read as they are sent."""
        try:
            lifted = Lifter(self.spec.schema.input).lift(call.input)
        except Unreadable as error:
            raise CallFailed(Category.BAD_INPUT, error.message, field=error.field) from None
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("input", lifted.json.decode(), content_type="application/json")
        for segment in (*call.segments, *lifted.segments):
            field = dotted(segment.path) or "file"
            data = segment.data
            form.add_field(
                field,
                data.opened() if isinstance(data, FileBytes) else bytes(data),  # aiohttp closes it
                filename=segment.name or field,
                content_type=segment.media_type,
            )
        return form

    def _body(self, call: Call) -> bytes:
        json = call.input
        if call.segments or (self._media != "data_url" and b"data:" in json):
            json = self._with_media(call)
        if self._input_key is None:
            return json
        return b"{" + msgspec.json.encode(self._input_key) + b":" + json + b"}"

    def _with_media(self, call: Call) -> bytes:
        if self._media == "data_url":
            return inlined(call.input, call.segments)
        value: Any = msgspec.json.decode(call.input)
        segments = list(call.segments)
        try:
            lifted = Lifter(self.spec.schema.input).lift(call.input)  # media that the caller wrote into the JSON
        except Unreadable as error:
            raise CallFailed(Category.BAD_INPUT, error.message, field=error.field) from None
        if lifted.segments:
            value = msgspec.json.decode(lifted.json)
            segments += lifted.segments
        for segment in segments:
            if self._media == "url":
                raise CallFailed(
                    Category.BAD_INPUT, "must be a URL that the model's server can reach, not the media itself",
                    field=dotted(segment.path) or None,
                )  # fmt: skip
            value = put(value, segment.path, base64.b64encode(segment.in_memory()).decode())
        return msgspec.json.encode(value)

    def _output(self, body: bytes) -> Output:
        try:
            json = as_json(body)
        except CallFailed:
            if held := not_finite_in(body):
                raise CallFailed(Category.PROVIDER_ERROR, f"the server's response holds {held}") from None
            raise
        if self._output_key is not None:
            whole = msgspec.json.decode(json)
            if not isinstance(whole, dict) or self._output_key not in whole:
                raise CallFailed(Category.PROVIDER_ERROR, f"the server's response has no member {self._output_key!r}")
            json = msgspec.json.encode(whole[self._output_key])
        try:
            return self._lifter.lift(json)
        except Unreadable as error:
            raise CallFailed(
                Category.PROVIDER_ERROR, f"the server's response: {error.field or 'it'} {error.message}"
            ) from None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
