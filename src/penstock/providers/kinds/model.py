"""Registered models as providers: chat models, and models that transcribe.

A chat model takes what chat jobs send (``messages`` and options) and returns a text, or an object with ``content`` and,
if it knows them, ``model``, ``usage`` and ``finish_reason``; it may stream texts or ``{"delta": "…"}``. A model that
transcribes takes ``audio`` (media), ``language`` and ``prompt``, and returns a text, or an object with ``text``,
``segments`` and ``language``. Models of the runtimes ``openai`` and ``python`` can do so directly.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from penstock.failures import CallFailed, Category
from penstock.outbound.peer import ObserveHead
from penstock.providers.kinds.chat import OnDelta, tokens
from penstock.providers.profile import ProviderSpec
from penstock.providers.reply import Reply
from penstock.providers.speech import SpeechRequest, transcript
from penstock.recordings.recording import Recording

_MAX_RECORDING_BYTES: Final = 32 * 2**20  # a recording is sent as base64 inside JSON
OnChunk = Callable[[bytes], Awaitable[None]]


class ModelCaller(Protocol):
    """The registered models that a process can call, on its own host or through a gateway."""

    async def call(self, name: str, request: bytes, *, request_id: str, on_chunk: OnChunk | None = None) -> bytes:
        """Return a model's output as JSON. With ``on_chunk`` the model streams, and the output of one that returns
        chunks only is the list of them. Raises CallFailed."""
        ...


class _ModelServer:
    """One model. The host or the gateway that runs it owns the connections."""

    def __init__(self, spec: ProviderSpec, models: ModelCaller, observe: ObserveHead) -> None:
        self._spec = spec
        self._models = models
        self._observe = observe

    async def close(self) -> None:
        """Do nothing: there are no connections to close."""

    async def _call(self, request: Mapping[str, Any], key: str, on_chunk: OnChunk | None = None) -> bytes:
        data = msgspec.json.encode({**self._spec.defaults, **request})
        seconds = self._spec.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._models.call(self._spec.model, data, request_id=key, on_chunk=on_chunk)
        except TimeoutError:
            raise CallFailed(Category.TIMEOUT, f"the model did not respond within {seconds:g} s") from None
        except CallFailed as error:
            if error.category is Category.RATE_LIMITED and error.retry_after is not None:
                # The model states how long to wait, as a server does in a header.
                self._observe(429, {"Retry-After": f"{error.retry_after.total_seconds():.3f}"})
            raise


class ChatModel(_ModelServer):
    """A model with the inputs and outputs of chat jobs."""

    async def complete(
        self, messages: list[dict[str, Any]], options: Mapping[str, Any], *, key: str, on_delta: OnDelta | None = None
    ) -> Reply:
        """Make one completion. Raises CallFailed."""
        request = {**options, "messages": messages}
        if on_delta is None:
            return self._reply(await self._call(request, key))

        async def pass_on(chunk: bytes) -> None:
            if text := _delta(msgspec.json.decode(chunk)):
                await on_delta(text)

        return self._reply(await self._call(request, key, pass_on))

    def _reply(self, output: bytes) -> Reply:
        value = msgspec.json.decode(output)
        if isinstance(value, list):  # of a model that returns chunks only
            value = {"content": "".join(_delta(one) for one in value)}
        elif isinstance(value, str):
            value = {"content": value}
        content = value.get("content") if isinstance(value, dict) else None
        if not isinstance(content, str):
            raise CallFailed(Category.PROVIDER_ERROR, "the model's output is not a text and has no content")
        usage = value.get("usage") if isinstance(value.get("usage"), dict) else None
        return Reply(
            text=content,
            model=_text(value.get("model")) or self._spec.model,
            used=tokens(usage),
            usage=usage,
            finish_reason=_text(value.get("finish_reason")),
        )


class AudioModel(_ModelServer):
    """A model that transcribes."""

    takes: frozenset[str] | None = None  # a model decodes what it can; ``Audio`` takes every format

    def __init__(self, spec: ProviderSpec, models: ModelCaller, observe: ObserveHead) -> None:
        super().__init__(spec, models, observe)
        self.max_seconds = None if spec.max_duration is None else spec.max_duration.total_seconds()

    async def transcribe(self, recording: Recording, request: SpeechRequest, *, key: str) -> Reply:
        """Transcribe a recording. Raises CallFailed."""
        if recording.size_bytes > _MAX_RECORDING_BYTES:
            message = f"the recording has {recording.size_bytes} bytes; at most {_MAX_RECORDING_BYTES} can be sent"
            raise CallFailed(Category.BAD_INPUT, f"{message}: max_duration cuts it into pieces")
        audio = await asyncio.to_thread(_data_url, recording)
        stated = {"audio": audio, "language": request.language, "prompt": request.prompt}
        output = await self._call({name: value for name, value in stated.items() if value is not None}, key)
        value = msgspec.json.decode(output)
        body = msgspec.json.encode({"text": value}) if isinstance(value, str) else output
        return transcript(body, recording, self._spec.model)


def _delta(chunk: Any) -> str:
    """Return the text that a chunk adds: the chunk itself, or its ``delta``."""
    found = chunk.get("delta") if isinstance(chunk, dict) else chunk
    return found.replace("\0", "") if isinstance(found, str) else ""


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _data_url(recording: Recording) -> str:
    return f"data:{recording.media_type};base64,{b64encode(recording.path.read_bytes()).decode()}"
