"""A chat provider: any OpenAI-compatible ``/chat/completions``."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from penstock.masking import MaskedStream
from penstock.outbound.chat import ChatStream, completion
from penstock.outbound.failure import CallFailed
from penstock.outbound.peer import ObserveHead, Peer
from penstock.providers.catalogue import ProviderSpec
from penstock.providers.dispatch import Reply, Used

_LARGEST_ANSWER: Final = 16 * 2**20  # bytes
_LONGEST_NAME: Final = 200  # characters of what a server calls its model, or the reason why it stopped
_MOST_TOKENS: Final = 10**9  # of one call; more is no account that can be true
_PIECE: Final = 3 * 2**18  # bytes encoded at once; a multiple of three
Delta = Callable[[str], Awaitable[None]]


class Attached:
    """A file inside a request: read and encoded while it is sent, so that it never stands in memory whole."""

    def __init__(self, path: Path, size: int) -> None:
        self.mark = uuid4().hex  # stands for it in the request
        self._path = path
        self._size = size

    def put_into(self, request: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """The length of a request with the file in the place of its mark, and its pieces."""
        before, _, behind = request.partition(self.mark.encode())
        return len(before) + 4 * ((self._size + 2) // 3) + len(behind), self._pieces(before, behind)

    async def _pieces(self, before: bytes, behind: bytes) -> AsyncIterator[bytes]:
        yield before
        with await asyncio.to_thread(self._path.open, "rb") as file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield await asyncio.to_thread(b64encode, piece)
        yield behind


class ChatServer:
    """One provider and its connections; ``close`` it at the end."""

    def __init__(self, spec: ProviderSpec, observe: ObserveHead | None = None) -> None:
        self._spec = spec
        self._server = connected(spec, observe, max_bytes=_LARGEST_ANSWER)

    async def complete(
        self,
        messages: list[dict[str, Any]],
        options: Mapping[str, Any],
        *,
        key: str,
        said: Delta | None = None,
        attached: Attached | None = None,
    ) -> Reply:
        """One completion. ``key`` is its idempotency key; with ``said`` the answer is streamed to it as it comes; the
        text of ``attached`` in the messages is sent as its file in base64. Raises CallFailed.
        """
        url = self._spec.endpoint.url("/chat/completions")
        request = {**self._spec.defaults, **options, "model": self._spec.model, "messages": messages}
        headers = {**self._spec.endpoint.headers, "Content-Type": "application/json", "Idempotency-Key": key}
        if said is not None:
            return await self._stream(url, request, headers, said)
        headers["Accept"] = "application/json"
        sent: Any = msgspec.json.encode(request)
        if attached is not None:
            size, sent = attached.put_into(sent)
            headers["Content-Length"] = str(size)
        body, _ = await self._server.post(url, headers=headers, data=sent)
        answer = completion(await self._server.cleaned(body))
        choice = answer.choices[0]
        content = choice.message.content
        if not isinstance(content, str):
            raise CallFailed("provider", "the provider's answer has no content")
        return self._reply(content, answer.model, answer.usage, choice.finish_reason)

    async def _stream(self, url: str, request: dict[str, Any], headers: dict[str, str], said: Delta) -> Reply:
        stream, told = ChatStream(), MaskedStream(self._server.credentials)
        headers["Accept"] = "text/event-stream"
        body = msgspec.json.encode(request | {"stream": True, "stream_options": {"include_usage": True}})
        async with self._server.open(url, headers=headers, data=body) as response:
            async for delta in stream.deltas(self._server, response):
                if piece := told.feed(delta.replace("\0", "")):
                    await said(piece)
        if piece := told.end():
            await said(piece)
        clean = self._server.credentials.value
        return self._reply(clean(stream.content), clean(stream.model), clean(stream.usage), clean(stream.finish_reason))

    def _reply(self, content: str, model: str | None, usage: dict[str, Any] | None, finish_reason: str | None) -> Reply:
        """An answer that holds no credentials any more; names may be our secrets by chance, and are nobody's words."""
        return Reply(
            text=content,
            model=self._server.masked(model)[:_LONGEST_NAME] if model else self._spec.model,
            used=tokens(usage),
            usage=usage,
            finish_reason=self._server.masked(finish_reason)[:_LONGEST_NAME] if finish_reason else None,
        )

    async def close(self) -> None:
        await self._server.close()


def connected(spec: ProviderSpec, observe: ObserveHead | None, *, max_bytes: int) -> Peer:
    """The connections to a provider, with its secrets masked in every message."""
    return Peer(
        headers={},
        timeout_seconds=spec.timeout.total_seconds(),
        secrets=spec.endpoint.secrets,
        credentials=spec.endpoint.credentials,
        max_bytes=max_bytes,
        hints=spec.hints,
        name="provider",
        observe=observe,
    )


def tokens(usage: Mapping[str, Any] | None) -> Used:
    """The tokens of a provider's account; what is absent or no number counts as none."""
    stated = usage or {}

    def count(name: str) -> int:
        value = stated.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_TOKENS:
            return 0
        return int(value)

    return Used(prompt_tokens=count("prompt_tokens"), completion_tokens=count("completion_tokens"))
