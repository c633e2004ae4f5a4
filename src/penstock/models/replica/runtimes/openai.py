"""The runtime of models behind an OpenAI-compatible server: chat, embeddings, transcription.

The manifest's table::

    [openai]
    base_url = "http://127.0.0.1:8000/v1"
    model = "qwen2.5-14b"            # the name that the server knows it by
    task = "chat"                    # "chat", "embeddings" or "transcription"
    api_key_env = "LLM_API_KEY"      # the variable of the replica's environment that holds the key; or api_key itself
    defaults = { temperature = 0.2 } # sent with every request, unless the input says otherwise
    headers = {}                     # as with the http runtime, like timeout, networks and requests_per_minute

Inputs and outputs:

- chat: ``messages``, or ``system`` and ``user``, and whatever else the protocol has; ``{"content", "model", "usage",
  "finish_reason", "tool_calls", "duration_ms"}``. To a caller who streams it sends chunks ``{"delta": "…"}`` first.
- embeddings: ``input``, a text or a list of them; ``{"embeddings": [[…]], "model", "usage"}``.
- transcription: ``audio`` and, if wanted, ``language`` and ``prompt``; ``{"text", "segments", "language", …}``.
"""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import msgspec

from penstock.failures import CallFailed, Category
from penstock.masking import MaskedStream
from penstock.models.replica.data_urls import Lifter, Unreadable, inlined
from penstock.models.replica.file_bytes import FileBytes
from penstock.models.replica.runtime import AsyncRuntime, Call, Output, Schema, Spec
from penstock.models.replica.server_gate import ServerGate
from penstock.models.replica.server_options import (
    check_server,
    credentials_in,
    from_environment,
    policy_of,
    seconds_of,
    secrets_in,
    stated_headers,
)
from penstock.openai.chat import messages_of
from penstock.openai.client import Client
from penstock.openai.streams import ChatStream
from penstock.openai.transcriptions import form_fields
from penstock.outbound.peer import Peer

_OPTIONS = (
    "base_url", "model", "task", "api_key", "api_key_env", "defaults", "headers", "timeout", "networks",
    "requests_per_minute",
)  # fmt: skip
_HINTS = {"credentials": "[openai] api_key_env", "address": "[openai] base_url and model"}
_TEXT = {"type": "string", "minLength": 1}

_CHAT_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}},
        "system": {"type": "string"},
        "user": _TEXT,
        "max_tokens": {"type": "integer", "minimum": 1},
        "temperature": {"type": "number", "minimum": 0},
        "response_format": {"type": "object"},
    },
    "anyOf": [{"required": ["messages"]}, {"required": ["user"]}],
}
_CHAT_OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"content": {"type": ["string", "null"]}, "model": {"type": "string"}, "usage": {}},
    "required": ["content"],
}
_EMBEDDINGS_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _TEXT}]}},
    "required": ["input"],
}
_EMBEDDINGS_OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"embeddings": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}},
    "required": ["embeddings"],
}
_TRANSCRIPTION_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "audio": {"type": "string", "format": "media", "contentMediaType": "audio/*"},
        "language": _TEXT,
        "prompt": {"type": "string"},
    },
    "required": ["audio"],
    "additionalProperties": False,
}
_TRANSCRIPTION_OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "segments": {"type": "array"}},
    "required": ["text"],
}
_SCHEMAS = {
    "chat": (_CHAT_INPUT, _CHAT_OUTPUT),
    "embeddings": (_EMBEDDINGS_INPUT, _EMBEDDINGS_OUTPUT),
    "transcription": (_TRANSCRIPTION_INPUT, _TRANSCRIPTION_OUTPUT),
}


class OpenaiRuntime(AsyncRuntime):
    """``openai``: one server, one of its models, one task."""

    name: ClassVar[str] = "openai"
    registrable: ClassVar[bool] = True
    default_concurrency: ClassVar[int] = 64
    one_replica: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        options = spec.options
        self._model: str = options["model"]
        self._task: str = options.get("task", "chat")
        self._defaults: Mapping[str, Any] = options.get("defaults", {})
        headers = stated_headers(options)
        key = self._key(options)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._lifter = Lifter(_SCHEMAS[self._task][0])
        base = str(options["base_url"]).rstrip("/")
        secrets = [key, *secrets_in(headers, options, base)]
        self._gate = ServerGate(spec, name="provider")
        self._peer = Peer(
            headers=headers,
            timeout_seconds=seconds_of(options, spec.timeout),
            secrets=secrets,
            credentials=credentials_in(secrets),
            policy=policy_of(options, spec.reach),
            hints=_HINTS,
            name="provider",
            observe=self._gate.observe,
        )
        self._client = Client(self._peer, lambda path: base + path)

    @staticmethod
    def _key(options: Mapping[str, Any]) -> str:
        if "api_key_env" in options:
            return from_environment(f"env:{options['api_key_env']}", "api_key_env")
        return from_environment(str(options.get("api_key", "")), "api_key")

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems = check_server(cls.name, options, "base_url", _OPTIONS)
        if not isinstance(options.get("model"), str) or not options["model"]:
            problems.append(("model", "is required: the name that the server knows the model by"))
        if options.get("task", "chat") not in _SCHEMAS:
            problems.append(("task", f"must be one of {', '.join(_SCHEMAS)}"))
        if not isinstance(options.get("defaults", {}), Mapping):
            problems.append(("defaults", "must be a table of what is sent with every request"))
        for name in ("api_key", "api_key_env"):
            if not isinstance(options.get(name, ""), str) or options.get(name) == "":
                problems.append((name, "must be a text"))
        if "api_key" in options and "api_key_env" in options:
            problems.append(("api_key", "must not be given beside api_key_env"))
        return problems

    def describe(self) -> Schema:
        stated = self.spec.schema
        own = _SCHEMAS[self._task]
        return Schema(
            input=stated.input or own[0],
            output=stated.output or own[1],
            description=stated.description or f"{self._model}: {self._task}.",
            cancels=True,
        )

    async def unload(self) -> None:
        await self._peer.close()

    async def predict(self, call: Call) -> Output | None:
        match self._task:
            case "chat":
                return await self._chat(call)
            case "embeddings":
                return await self._embed(call)
            case _:
                return await self._transcribe(call)

    # Chat

    async def _chat(self, call: Call) -> Output:
        begun = time.monotonic()
        request = self._chat_request(call)
        response = await (self._streamed(call, request) if call.streams else self._completed(call, request))
        return Output(msgspec.json.encode(response | {"duration_ms": round(1000 * (time.monotonic() - begun))}))

    def _chat_request(self, call: Call) -> dict[str, Any]:
        stated = _object(inlined(call.input, call.segments))
        messages = messages_of(stated.pop("messages", None), stated.pop("system", None), stated.pop("user", None))
        return {**self._defaults, **stated, "model": self._model, "messages": messages}

    async def _completed(self, call: Call, request: dict[str, Any]) -> dict[str, Any]:
        data = msgspec.json.encode(request | {"stream": False})
        async with self._gate.slot():
            response = await self._client.complete(data, key=call.request_id)
        choice = response.choices[0]
        found = {
            "content": choice.message.text,
            "model": response.model or self._model,
            "usage": response.usage,
            "finish_reason": choice.finish_reason,
        }
        return found | {"tool_calls": choice.message.tool_calls} if choice.message.tool_calls else found

    async def _streamed(self, call: Call, request: dict[str, Any]) -> dict[str, Any]:
        stream, masked = ChatStream(self._peer.excerpt), MaskedStream(self._peer.credentials)
        async with self._gate.slot():
            async for delta in self._client.stream(request, key=call.request_id, into=stream):
                if text := masked.feed(delta):
                    await call.chunk_async(_delta(text))
        if text := masked.end():
            await call.chunk_async(_delta(text))
        found: dict[str, Any] = {
            "content": stream.content,
            "model": stream.model or self._model,
            "usage": stream.usage,
            "finish_reason": stream.finish_reason,
        }
        if stream.tool_calls:
            found["tool_calls"] = stream.tool_calls
        cleaned: dict[str, Any] = self._peer.credentials.value(found) if self._peer.credentials else found
        return cleaned

    # Embeddings

    async def _embed(self, call: Call) -> Output:
        stated = _object(call.input)
        expected = len(stated["input"]) if isinstance(stated.get("input"), list) else 1
        request = {**self._defaults, **stated, "model": self._model}
        async with self._gate.slot():
            response = await self._client.embed(request, key=call.request_id, expected=expected)
        found = {
            "embeddings": response.vectors(),
            "model": response.model or self._model,
            "usage": response.usage,
        }
        return Output(msgspec.json.encode(found))

    # Transcription

    async def _transcribe(self, call: Call) -> Output:
        try:
            lifted = self._lifter.lift(call.input)
        except Unreadable as error:
            raise CallFailed(Category.BAD_INPUT, error.message, field=error.field) from None
        segments = [*call.segments, *lifted.segments]
        if not segments:
            raise CallFailed(Category.BAD_INPUT, "must be an audio file", field="audio")
        audio, stated = segments[0], _object(lifted.json)
        form = aiohttp.FormData(default_to_multipart=True)
        ending = mimetypes.guess_extension(audio.media_type) or ".wav"
        form.add_field(
            "file",
            audio.data.opened() if isinstance(audio.data, FileBytes) else bytes(audio.data),  # aiohttp closes it
            filename=audio.name or f"audio{ending}",
            content_type=audio.media_type,
        )
        options = {"model": self._model, "response_format": "verbose_json", **self._defaults}
        options |= {name: stated[name] for name in ("language", "prompt") if stated.get(name)}
        for name, value in form_fields(options):
            form.add_field(name, value)
        async with self._gate.slot():
            response = await self._client.transcribe(form, key=call.request_id)
        kept: dict[str, Any] = msgspec.to_builtins(response)
        return Output(msgspec.json.encode({"segments": [], "model": self._model} | kept))


def _delta(text: str) -> Output:
    return Output(msgspec.json.encode({"delta": text}))


def _object(json: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(json)
    if not isinstance(value, dict):
        raise CallFailed(Category.BAD_INPUT, "must be an object")
    return value
