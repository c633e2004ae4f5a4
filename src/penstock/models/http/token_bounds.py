"""The most tokens that a call of a model can use, for quotas that must not be exceeded (``mode`` ``strict``).

A prompt has at most one token for each byte of its JSON, and a few more that the server's template adds to each
message. The output has at most ``max_tokens``, which is lowered to what the quota has left. What cannot be bounded that
way is refused: media, options that are not known here, and tasks whose servers take no ``max_tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.errors import Forbidden, InvalidInput
from penstock.models.accounting import OPENAI
from penstock.models.host.deployment import Deployment
from penstock.models.inputs import Input
from penstock.quotas.admission import TokenNeed

USUAL_TOKENS: Final = 4096  # of the output of a call that states no limit
_OF_A_TEMPLATE: Final = 256  # tokens that a server may put around the messages
_OF_A_MESSAGE: Final = 16
_OF_AN_ITEM: Final = 8  # of the input of embeddings
_TOOLS_FACTOR: Final = 4  # templates write tools with indentation
_MOST_CHOICES: Final = 128
_LIMITS: Final = ("max_completion_tokens", "max_tokens")  # servers let the first one win
_OPTIONS: Final = frozenset(
    {
        "model", "messages", "system", "user", "n", "temperature", "top_p", "stop", "seed", "response_format", "tools",
        "tool_choice", "parallel_tool_calls", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs",
        "top_logprobs", "reasoning_effort", *_LIMITS,
    }
)  # fmt: skip
_OF_MESSAGES: Final = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """An input whose tokens are bounded."""

    value: dict[str, Any]
    prompt: int  # tokens, at most
    limits: Mapping[str, int]  # the fields that limit the output of each choice, as they are sent; empty: no output
    choices: int = 1

    @property
    def need(self) -> TokenNeed:
        wanted = min(self.limits.values(), default=0)
        return TokenNeed(least=self.prompt + (self.choices if wanted else 0), most=self.prompt + self.choices * wanted)

    def within(self, tokens: int) -> bytes:
        """Return the input as JSON, with the limits of its output lowered so that it uses at most ``tokens``."""
        each = (tokens - self.prompt) // self.choices
        return msgspec.json.encode(self.value | {name: min(limit, each) for name, limit in self.limits.items()})


def bounded(deployment: Deployment, given: Input) -> Bounded | None:
    """Return a bound for a call; None if calls of this model use no tokens that are counted.

    Raises Forbidden for a model, and InvalidInput for an input, whose tokens cannot be bounded.
    """
    manifest = deployment.model.manifest
    if manifest.runtime != OPENAI:
        return None
    task, defaults = manifest.options.get("task", "chat"), manifest.options.get("defaults", {})
    if task not in {"chat", "embeddings"}:
        raise Forbidden(
            f"a strict quota of tokens limits this call, and the model {deployment.model.name} takes no max_tokens"
        )
    if given.segments:
        raise _unbounded("input", "must have no media: the tokens of media are not known before the call")
    value = msgspec.json.decode(given.json)
    size = len(given.json) + len(msgspec.json.encode(defaults))
    return _chat(value, defaults, size) if task == "chat" else _embeddings(value, size)


def _embeddings(value: dict[str, Any], size: int) -> Bounded:
    items = len(value["input"]) if isinstance(value.get("input"), list) else 1
    return Bounded(value=value, prompt=size + items * _OF_AN_ITEM, limits={})


def _chat(value: dict[str, Any], defaults: Mapping[str, Any], size: int) -> Bounded:
    for name in value:
        if name not in _OPTIONS:
            raise _unbounded(name, "is not known to leave the number of tokens as it is")
    messages = value.get("messages") or []
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    sent = {**defaults, **value}
    choices = _count(sent.get("n"), "n", usual=1, most=_MOST_CHOICES)
    limits: dict[str, int] = {
        name: _count(sent[name], name, usual=USUAL_TOKENS, most=2**31) for name in _LIMITS if name in sent
    }
    tools = len(msgspec.json.encode(sent["tools"])) * (_TOOLS_FACTOR - 1) if "tools" in sent else 0
    return Bounded(
        value=value,
        prompt=size + tools + _OF_A_TEMPLATE + (len(messages) + 2) * _OF_A_MESSAGE,
        limits=limits or {"max_tokens": USUAL_TOKENS},
        choices=choices,
    )


def _check_message(message: Any, at: str) -> None:
    """Refuse anything but texts."""
    if not isinstance(message, dict):
        raise _unbounded(at, "must be an object")
    for name in message:
        if name not in _OF_MESSAGES:
            raise _unbounded(f"{at}.{name}", "is not known to be a text")
    content = message.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or part.keys() - {"type", "text"}:
                raise _unbounded(f"{at}.content[{index}]", "must be a text: the tokens of media are not known")


def _count(value: Any, field: str, *, usual: int, most: int) -> int:
    """Return an option that is a number, or what is usual where it is absent."""
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidInput.of(field, f"must be an integer from 1 to {most}")
    return value


def _unbounded(field: str, detail: str) -> InvalidInput:
    return InvalidInput.of(field, f"{detail}; a strict quota of tokens limits this call")
