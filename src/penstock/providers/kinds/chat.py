"""A chat provider: any OpenAI-compatible ``/chat/completions``."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from penstock.failures import CallFailed, Category
from penstock.masking import MaskedStream
from penstock.openai.client import Client
from penstock.openai.streams import ChatStream
from penstock.outbound.peer import ObserveHead, Peer
from penstock.providers.profile import ProviderSpec
from penstock.providers.reply import Reply, Used

_MAX_RESPONSE_BYTES: Final = 16 * 2**20
_NAME_LENGTH: Final = 200  # characters of a model's name or a finish reason in a response
_MAX_TOKENS: Final = 10**9  # of one call; a larger count must be wrong
_PIECE: Final = 3 * 2**18  # bytes encoded at once; a multiple of three
OnDelta = Callable[[str], Awaitable[None]]


class Attachment:
    """A file inside a request. It is read and encoded while it is sent, so that it is never in memory as a whole."""

    def __init__(self, path: Path, size: int) -> None:
        self.mark = uuid4().hex  # the placeholder for the file in the request
        self._path = path
        self._size = size

    def put_into(self, request: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """Return the length and the pieces of a request in which the file replaces its mark."""
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
        self._peer = peer_of(spec, observe, max_bytes=_MAX_RESPONSE_BYTES)
        self._client = Client(self._peer, spec.server.url, spec.server.headers)

    async def complete(
        self,
        messages: list[dict[str, Any]],
        options: Mapping[str, Any],
        *,
        key: str,
        on_delta: OnDelta | None = None,
        attachment: Attachment | None = None,
    ) -> Reply:
        """Make one completion. Raises CallFailed.

        ``key`` is the idempotency key. With ``on_delta`` the text is streamed to that function as it arrives. The mark
        of ``attachment`` in the messages is replaced by its file in base64.
        """
        request = {**self._spec.defaults, **options, "model": self._spec.model, "messages": messages}
        if on_delta is not None:
            return await self._stream(request, key, on_delta)
        data = msgspec.json.encode(request)
        if attachment is None:
            response = await self._client.complete(data, key=key)
        else:
            size, pieces = attachment.put_into(data)
            response = await self._client.complete(pieces, key=key, size=size)
        choice = response.choices[0]
        content = choice.message.text
        if content is None:
            raise CallFailed(Category.PROVIDER_ERROR, "the provider's response has no content")
        return self._reply(content, response.model, response.usage, choice.finish_reason)

    async def _stream(self, request: dict[str, Any], key: str, on_delta: OnDelta) -> Reply:
        stream, masked = ChatStream(self._peer.excerpt), MaskedStream(self._peer.credentials)
        async for text in self._client.stream(request, key=key, into=stream):
            if piece := masked.feed(text.replace("\0", "")):
                await on_delta(piece)
        if piece := masked.end():
            await on_delta(piece)
        clean = self._peer.credentials.value
        return self._reply(clean(stream.content), clean(stream.model), clean(stream.usage), clean(stream.finish_reason))

    def _reply(self, content: str, model: str | None, usage: dict[str, Any] | None, finish_reason: str | None) -> Reply:
        """Return a reply without credentials. In names every secret is masked, even one that may be a word."""
        return Reply(
            text=content,
            model=self._peer.masked(model)[:_NAME_LENGTH] if model else self._spec.model,
            used=tokens(usage),
            usage=usage,
            finish_reason=self._peer.masked(finish_reason)[:_NAME_LENGTH] if finish_reason else None,
        )

    async def close(self) -> None:
        await self._peer.close()


def peer_of(spec: ProviderSpec, observe: ObserveHead | None, *, max_bytes: int) -> Peer:
    """Return the connections to a provider, with its secrets masked in every message."""
    return Peer(
        headers={},
        timeout_seconds=spec.timeout.total_seconds(),
        secrets=spec.server.secrets,
        credentials=spec.server.credentials,
        max_bytes=max_bytes,
        hints=spec.hints,
        name="provider",
        observe=observe,
    )


def tokens(usage: Mapping[str, Any] | None) -> Used:
    """Return the tokens that a provider counted; an absent or implausible count becomes 0."""
    if not usage:
        return Used()
    return Used(prompt_tokens=_count(usage, "prompt_tokens"), completion_tokens=_count(usage, "completion_tokens"))


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_TOKENS:
        return 0
    return int(value)
