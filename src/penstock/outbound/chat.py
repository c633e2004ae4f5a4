"""The part of OpenAI's chat protocol that the ``openai`` runtime and the providers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
from msgspec import UNSET, Struct, UnsetType

from penstock.outbound.failure import CallFailed
from penstock.outbound.peer import Peer


class Message(Struct):
    """What the model said."""

    content: str | UnsetType | None = UNSET
    tool_calls: list[Any] | None = None


class Choice(Struct):
    message: Message
    finish_reason: str | None = None


class Completion(Struct):
    """A provider's whole answer."""

    choices: list[Choice]
    model: str | None = None
    usage: dict[str, Any] | None = None


def messages_of(messages: Any, system: Any, user: Any) -> list[dict[str, Any]]:
    """The messages of a request: as stated, or made from a system and a user text.

    Raises CallFailed (``bad_input``) that names the field.
    """
    if messages is not None:
        return _stated(messages)
    for name, text in (("system", system), ("user", user)):
        if text is not None and not isinstance(text, str):
            raise CallFailed("bad_input", "must be a text", field=name)
    if not user:
        raise CallFailed("bad_input", "needs messages, or a user text", field="user")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def _stated(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise CallFailed("bad_input", "needs at least one message", field="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise CallFailed("bad_input", "must be an object", field=where)
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise CallFailed("bad_input", "needs a role", field=f"{where}.role")
        if not isinstance(message.get("content"), (str, list)) and "tool_calls" not in message:
            raise CallFailed("bad_input", "needs a text or a list of parts", field=f"{where}.content")
    return messages


def completion(body: bytes) -> Completion:
    """A provider's answer, typed; it has content or tool calls. Raises CallFailed (``provider``)."""
    try:
        answer = msgspec.json.decode(body, type=Completion)
    except msgspec.ValidationError as error:
        raise CallFailed("provider", f"the provider's answer is no chat completion: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed("provider", "the provider's answer is not JSON") from None
    if not answer.choices:
        raise CallFailed("provider", "the provider's answer has no choices")
    message = answer.choices[0].message
    if not isinstance(message.content, str) and not message.tool_calls:
        raise CallFailed("provider", "the provider's answer has no content")
    return answer


class _Delta(Struct):
    content: str | None = None


class _PartChoice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Part(Struct):
    """A chunk of a streamed chat."""

    choices: list[_PartChoice] = []
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class ChatStream:
    """A streamed chat as it is read: what was said so far, by which model, and what it used."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self._said: list[str] = []

    @property
    def content(self) -> str:
        return "".join(self._said)

    async def deltas(self, server: Peer, response: aiohttp.ClientResponse) -> AsyncIterator[str]:
        """What the model says, piece by piece. Raises CallFailed (``provider``), also for a stream that was cut off."""
        ended = False
        async for data in server.events(response):
            if data == b"[DONE]":
                ended = True
                break
            part = _part(data)
            if part.error is not None:
                raise CallFailed("provider", f"the provider failed: {server.excerpt(str(part.error))}")
            self.model = part.model or self.model
            self.usage = part.usage or self.usage
            for choice in part.choices[:1]:
                self.finish_reason = choice.finish_reason or self.finish_reason
                if choice.delta.content:
                    self._said.append(choice.delta.content)
                    yield choice.delta.content
        if not ended and self.finish_reason is None:
            raise CallFailed("provider", "the provider's stream ended before its answer did")


def _part(data: bytes) -> _Part:
    try:
        return msgspec.json.decode(data, type=_Part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed("provider", f"a part of the provider's stream cannot be read: {error}") from None
