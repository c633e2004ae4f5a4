"""What attempts used of providers: reported when an attempt ends, and summed up in statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

_LONGEST_ERROR = 2000
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"  # PostgreSQL cannot store U+0000, and names need no other control character
Outcome = Literal["completed", "failed", "cancelled", "skipped"]
Count = Annotated[int, Meta(ge=0, le=10**12)]  # small enough that sums of millions of them fit into a bigint


class Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call to one provider, as a worker reports it. ``skipped``: no request was sent to the provider after all."""

    provider: Annotated[str, Meta(min_length=1, max_length=200, pattern=_PLAIN)]
    model: Annotated[str, Meta(max_length=500, pattern=_PLAIN)] = ""
    status: Outcome = "completed"
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    audio_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    duration_ms: Count = 0
    error: Annotated[str, Meta(max_length=_LONGEST_ERROR, pattern=r"^[^\x00]*$")] | None = None


Usages = Annotated[list[Usage], Meta(max_length=100)]


class UsageCounts(Struct, frozen=True, kw_only=True):
    """What calls to providers used, since the beginning; those of attempts that failed count too."""

    calls: int = 0
    failures: int = 0  # calls that failed
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_seconds: float = 0.0
    milliseconds: int = 0  # time spent waiting for providers

    def plus(self, other: UsageCounts) -> UsageCounts:
        """Return the sum of both."""
        return UsageCounts(
            calls=self.calls + other.calls,
            failures=self.failures + other.failures,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            audio_seconds=round(self.audio_seconds + other.audio_seconds, 3),
            milliseconds=self.milliseconds + other.milliseconds,
        )


class ProviderCounts(UsageCounts, frozen=True, kw_only=True):
    """The usage of one model of one provider."""

    provider: str
    model: str


_stored = msgspec.json.Decoder(list[dict[str, Any]])


def stored(usages: Sequence[Usage]) -> bytes | None:
    """Return the value for a column; None when there is no usage."""
    return msgspec.json.encode(usages) if usages else None


def read(column: bytes | None) -> list[Usage]:
    """Read a column's value; fields that a later version wrote are ignored."""
    if column is None:
        return []
    return [
        Usage(**{name: value for name, value in one.items() if name in Usage.__struct_fields__})
        for one in _stored.decode(column)
    ]
