"""The usage of a call of a model, once it has ended."""

from __future__ import annotations

import time
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from penstock.models.host.calls import CallResult, LiveCall
from penstock.models.host.deployment import Deployment

OPENAI: Final = "openai"  # the runtime whose output states tokens
_MAX_TOKENS: Final = 10**12
Tokens = Annotated[int, Meta(ge=0, le=_MAX_TOKENS)]


class CallUse(NamedTuple):
    """The use of one call. A call whose caller left is neither completed nor failed."""

    completed: bool
    failed: bool
    version: str
    prompt_tokens: int
    completion_tokens: int
    model_us: int  # microseconds in the model, or with a replica if the call did not complete
    bytes_out: int
    counts_tokens: bool = True  # whether the number of tokens is known

    @property
    def tokens(self) -> int | None:
        return self.prompt_tokens + self.completion_tokens if self.counts_tokens else None


class _Tokens(Struct):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None


class _Stating(Struct):
    usage: _Tokens | None = None


_stating: Final = msgspec.json.Decoder(_Stating)
_NONE: Final = _Tokens()


def use_of(call: LiveCall, deployment: Deployment) -> CallUse | None:
    """Return what an ended call used; None if no replica had begun it."""
    done = call.done
    if done.cancelled() or done.exception() is not None:
        if not call.started_at:
            return None
        model_us = max(0, round(1e6 * (time.perf_counter() - call.started_at)))
        return CallUse(False, not done.cancelled(), deployment.model.version, 0, 0, model_us, call.output_bytes)
    result = done.result()
    tokens = _tokens(result) if deployment.model.manifest.runtime == OPENAI else _NONE
    size = len(result.json) + sum(len(segment.data) for segment in result.segments)
    return CallUse(
        completed=True,
        failed=False,
        version=result.version,
        prompt_tokens=tokens.prompt_tokens or 0,
        completion_tokens=tokens.completion_tokens or 0,
        model_us=round(1e6 * result.model_seconds),
        bytes_out=call.output_bytes or size,
        counts_tokens=tokens.prompt_tokens is not None or tokens.completion_tokens is not None,
    )


def _tokens(result: CallResult) -> _Tokens:
    try:
        return _stating.decode(result.json).usage or _NONE
    except msgspec.MsgspecError:  # the server behind the model counts in another way, or not at all
        return _NONE
