"""Calls to a server that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import msgspec

from penstock.openai import transcriptions
from penstock.openai.chat import Completion, completion
from penstock.openai.embeddings import Embeddings, embeddings
from penstock.openai.streams import ChatStream
from penstock.openai.transcriptions import Transcription, transcription
from penstock.outbound.peer import Peer

_JSON: Final = "application/json"
_STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}


class Client:
    """One server, reached through ``peer``; ``url`` returns the address of a path below its base URL.

    ``headers`` are sent with every request. ``key`` is a request's idempotency key; "" sends none. Responses never hold
    the peer's credentials, even where the server echoes them. Every method raises CallFailed.
    """

    def __init__(self, peer: Peer, url: Callable[[str], str], headers: Mapping[str, str] | None = None) -> None:
        own = dict(headers or {})
        self._peer = peer
        self._chat_url = url("/chat/completions")
        self._embeddings_url = url("/embeddings")
        self._transcriptions_url = url(transcriptions.PATH)
        self._form_headers = own | {"Accept": _JSON}
        self._json_headers = self._form_headers | {"Content-Type": _JSON}
        self._stream_headers = own | {"Accept": "text/event-stream", "Content-Type": _JSON}

    async def complete(self, request: bytes | AsyncIterator[bytes], *, key: str, size: int | None = None) -> Completion:
        """Make one chat completion. ``request`` is its JSON; ``size`` is the length of a request in pieces."""
        headers = _keyed(self._json_headers, key)
        if size is not None:
            headers["Content-Length"] = str(size)
        body, _ = await self._peer.post(self._chat_url, headers=headers, data=request)
        return completion(await self._peer.cleaned(body))

    async def stream(self, request: Mapping[str, Any], *, key: str, into: ChatStream) -> AsyncIterator[str]:
        """Yield the texts of a streamed completion, which ``into`` keeps. They are unmasked: a reader must
        mask our credentials before it passes them on."""
        data = msgspec.json.encode({**request, **_STREAM})
        headers = _keyed(self._stream_headers, key)
        async with self._peer.open(self._chat_url, headers=headers, data=data) as response:
            async for event in self._peer.events(response):
                text = into.feed(event)
                if into.ended:
                    break
                if text is not None:
                    yield text
        into.end()

    async def embed(self, request: Mapping[str, Any], *, key: str, expected: int) -> Embeddings:
        """Return ``expected`` embeddings."""
        data = msgspec.json.encode(request)
        headers = _keyed(self._json_headers, key)
        body, _ = await self._peer.post(self._embeddings_url, headers=headers, data=data)
        return embeddings(await self._peer.cleaned(body), expected)

    async def transcribe(self, form: Any, *, key: str) -> Transcription:
        """Return the transcription of a form's ``file``."""
        headers = _keyed(self._form_headers, key)
        body, _ = await self._peer.post(self._transcriptions_url, headers=headers, data=form)
        return transcription(await self._peer.cleaned(body))


def _keyed(headers: Mapping[str, str], key: str) -> dict[str, str]:
    return {**headers, "Idempotency-Key": key} if key else dict(headers)
