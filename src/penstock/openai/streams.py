"""Read streamed chat completions: turn chunks into text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.failures import CallFailed, Category
from penstock.openai.errors import message_of

_MAX_TOOL_CALLS: Final = 128  # of one completion; servers number them from 0


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCallDelta(Struct):
    index: int = 0
    id: str | None = None
    function: _FunctionDelta = msgspec.field(default_factory=_FunctionDelta)


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    model: str | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class ChatStream:
    """A streamed completion as it arrives: the text so far, the model's name, and its usage.

    It keeps every text, so its memory is bounded by the bytes that the peer lets through. ``excerpt`` shortens
    a server's message for our error message, and masks our secrets in it.
    """

    def __init__(self, excerpt: Callable[[str], str]) -> None:
        self.model: str | None = None
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.ended = False  # by [DONE]
        self._excerpt = excerpt
        self._texts: list[str] = []
        self._tool_calls: dict[int, _ToolCall] = {}

    @property
    def content(self) -> str:
        return "".join(self._texts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls, assembled from their deltas, in order."""
        return [call.as_json() for _, call in sorted(self._tool_calls.items())]

    def feed(self, data: bytes) -> str | None:
        """Take the data of one event; return the text that it adds, if any. Raises CallFailed (``provider_error``)."""
        if data.strip() == b"[DONE]":
            self.ended = True
            return None
        chunk = _decoded(data)
        if chunk.error is not None:
            raise CallFailed(Category.PROVIDER_ERROR, f"the provider failed: {self._excerpt(message_of(chunk.error))}")
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        for delta in choice.delta.tool_calls or ():
            self._add_tool_call(delta)
        text = choice.delta.content or choice.delta.refusal
        if text:
            self._texts.append(text)
        return text or None

    def end(self) -> None:
        """Note the end of the connection. Raises CallFailed (``provider_error``) if the completion is incomplete."""
        if not self.ended and self.finish_reason is None:
            raise CallFailed(Category.PROVIDER_ERROR, "the provider's stream ended before its completion did")

    def _add_tool_call(self, delta: _ToolCallDelta) -> None:
        if not 0 <= delta.index < _MAX_TOOL_CALLS:
            raise CallFailed(Category.PROVIDER_ERROR, f"the provider numbers a tool call {delta.index}")
        call = self._tool_calls.setdefault(delta.index, _ToolCall())
        call.id = call.id or delta.id
        call.name = call.name or delta.function.name
        if delta.function.arguments:
            call.arguments.append(delta.function.arguments)


class _ToolCall:
    """One tool call: its id and name come first, its arguments in pieces."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []

    def as_json(self) -> dict[str, Any]:
        function = {"name": self.name or "", "arguments": "".join(self.arguments)}
        return {"id": self.id or "", "type": "function", "function": function}


def _decoded(data: bytes) -> _Chunk:
    try:
        return _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed(Category.PROVIDER_ERROR, f"a chunk of the provider's stream cannot be read: {error}") from None
