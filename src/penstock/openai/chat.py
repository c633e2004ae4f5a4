"""Chat completions: the messages of a request, and whole responses."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.failures import CallFailed, Category

#: Fields that only the client sets; a caller cannot set them through options.
RESERVED: Final = frozenset({"model", "messages", "stream", "stream_options"})


class Part(Struct):
    """One part of a message's content; only texts matter here."""

    type: str = "text"
    text: str | None = None


class Message(Struct):
    """The message of the model. Servers with OpenAI's newer forms send parts, or a refusal instead of content."""

    content: str | list[Part] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str | None:
        """The content as one text, or the refusal; None if there is neither."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.text is not None)
        return self.refusal if self.content is None else self.content


class Choice(Struct):
    message: Message
    finish_reason: str | None = None


class Completion(Struct):
    """A server's whole response."""

    choices: list[Choice]
    model: str | None = None
    usage: dict[str, Any] | None = None


_COMPLETION: Final = msgspec.json.Decoder(Completion)


def messages_of(messages: Any, system: Any, user: Any) -> list[dict[str, Any]]:
    """Return the messages of a request, either as given or built from a system text and a user text.

    Raises CallFailed (``bad_input``) that names the field.
    """
    if messages is not None:
        return _checked(messages)
    for name, text in (("system", system), ("user", user)):
        if text is not None and not isinstance(text, str):
            raise CallFailed(Category.BAD_INPUT, "must be a text", field=name)
    if not user:
        raise CallFailed(Category.BAD_INPUT, "needs messages, or a user text", field="user")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise CallFailed(Category.BAD_INPUT, "needs at least one message", field="messages")
    for index, message in enumerate(messages):
        problem = _problem(message)
        if problem is not None:
            where, detail = problem
            raise CallFailed(Category.BAD_INPUT, detail, field=f"messages[{index}]{where}")
    return messages


def _problem(message: Any) -> tuple[str, str] | None:
    """Return the place of a mistake in a message, and what is allowed there."""
    if not isinstance(message, dict):
        return "", "must be an object"
    if not isinstance(message.get("role"), str) or not message["role"]:
        return ".role", "needs a role"
    if not isinstance(message.get("content"), (str, list)) and "tool_calls" not in message:
        return ".content", "needs a text or a list of parts"
    return None


def completion(body: bytes) -> Completion:
    """Return a server's response, typed; it has content or tool calls. Raises CallFailed (``provider_error``)."""
    try:
        response = _COMPLETION.decode(body)
    except msgspec.ValidationError as error:
        raise CallFailed(
            Category.PROVIDER_ERROR, f"the provider's response is not a chat completion: {error}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response is not JSON") from None
    if not response.choices:
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response has no choices")
    message = response.choices[0].message
    if message.text is None and not message.tool_calls:
        raise CallFailed(Category.PROVIDER_ERROR, "the provider's response has no content")
    return response
