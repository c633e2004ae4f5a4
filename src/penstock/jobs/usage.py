"""The calls of attempts, as workers report them when an attempt ends, and their sums in statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from penstock.usage.prices import UNPRICED, Charge, Measured, PriceList

_LONGEST_ERROR = 2000
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"  # PostgreSQL cannot store U+0000, and names need no other control character
Outcome = Literal["completed", "failed", "cancelled", "skipped"]
Count = Annotated[int, Meta(ge=0, le=10**12)]  # small enough that sums of millions of them fit into a bigint


class Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of a model, at a provider or (without one) in the worker, as it reports it. ``skipped``: no request was
    sent after all."""

    provider: Annotated[str, Meta(max_length=200, pattern=_PLAIN)] = ""
    model: Annotated[str, Meta(max_length=500, pattern=_PLAIN)] = ""
    version: Annotated[str, Meta(max_length=100, pattern=_PLAIN)] = ""
    status: Outcome = "completed"
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    audio_seconds: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    duration_ms: Annotated[int, Meta(ge=0, le=10**9)] = 0
    duration_us: Annotated[int, Meta(ge=0, le=10**12)] | None = None  # in place of duration_ms where that is too coarse
    error: Annotated[str, Meta(max_length=_LONGEST_ERROR, pattern=r"^[^\x00]*$")] | None = None


Usages = Annotated[list[Usage], Meta(max_length=100)]


class UsageCounts(Struct, frozen=True, kw_only=True):
    """The usage of calls to providers since the beginning, including calls of failed attempts."""

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


Charging = Callable[[Usage], Charge]


def charging(prices: PriceList, today: Callable[[], date]) -> Charging:
    """Return the function that charges reported calls by a price list, each on the day (in UTC) of its report."""

    def charge(usage: Usage) -> Charge:
        if not prices.prices:
            return UNPRICED
        return prices.charge(usage.provider, usage.model, today(), _measured(usage))

    return charge


def unpriced(_usage: Usage) -> Charge:
    """Return the charge where there is no price list."""
    return UNPRICED


def _measured(usage: Usage) -> Measured:
    return Measured(
        completed=int(usage.status == "completed"),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        audio_us=round(1_000_000 * usage.audio_seconds),
        model_us=1000 * usage.duration_ms if usage.duration_us is None else usage.duration_us,
    )


class _Stored(Usage, frozen=True, kw_only=True):
    """A call as the column holds it: with its price, and its duration in microseconds."""

    price: str
    cost: str  # a number of any size


_stored = msgspec.json.Decoder(list[dict[str, Any]])


def stored(usages: Sequence[Usage], charging: Charging = unpriced) -> bytes | None:
    """Return the value for a column; None when there is no usage."""
    return msgspec.json.encode([_priced(usage, charging(usage)) for usage in usages]) if usages else None


def _priced(usage: Usage, charge: Charge) -> _Stored:
    fields = {name: getattr(usage, name) for name in Usage.__struct_fields__}
    if usage.duration_us is None:
        fields["duration_us"] = 1000 * usage.duration_ms
    return _Stored(**fields, price=charge.price, cost=str(charge.cost))


def read(column: bytes | None) -> list[Usage]:
    """Read a column's value; fields that a later version wrote are ignored."""
    if column is None:
        return []
    return [_read(one) for one in _stored.decode(column)]


def _read(one: dict[str, Any]) -> Usage:
    usage = Usage(**{name: value for name, value in one.items() if name in Usage.__struct_fields__})
    if usage.duration_us == 1000 * usage.duration_ms:
        return msgspec.structs.replace(usage, duration_us=None)
    return usage
