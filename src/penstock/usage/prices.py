"""Prices and costs, in integers: the unit of cost is 10^-12 of the price list's currency."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

SCALE: Final = 10**12


class Unit(NamedTuple):
    """The amount that a price is for: ``size`` of the ledger's units of a measure."""

    measure: str
    size: int


UNITS: Final[Mapping[str, Unit]] = MappingProxyType(
    {
        "per_call": Unit("completed", 1),
        "per_million_prompt_tokens": Unit("prompt_tokens", 10**6),
        "per_million_completion_tokens": Unit("completion_tokens", 10**6),
        "per_audio_second": Unit("audio_us", 10**6),
        "per_audio_minute": Unit("audio_us", 60 * 10**6),
        "per_audio_hour": Unit("audio_us", 3600 * 10**6),
        "per_model_second": Unit("model_us", 10**6),
        "per_model_hour": Unit("model_us", 3600 * 10**6),
    }
)


class Measured(NamedTuple):
    """The usage of one call. A call that failed has ``completed`` 0, but its usage is charged."""

    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_us: int = 0  # microseconds of sound
    model_us: int = 0  # microseconds in the model or at the provider


class Charge(NamedTuple):
    """The cost of a call, and the id of the price that it was computed with: "" where there was none."""

    price: str = ""
    cost: int = 0


UNPRICED: Final = Charge()


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price of calls, valid from a day (in UTC) until the next one of the same provider and model."""

    provider: str  # "": any
    model: str  # "": any
    since: date
    currency: str
    amounts: Mapping[str, int]  # by unit, in 10^-12 of the currency
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", hashlib.sha256(self.content).hexdigest()[:16])

    @property
    def content(self) -> bytes:
        """Everything that the id stands for, as JSON."""
        return msgspec.json.encode(
            {
                "provider": self.provider,
                "model": self.model,
                "from": self.since.isoformat(),
                "currency": self.currency,
                "amounts": {unit: str(self.amounts[unit]) for unit in sorted(self.amounts)},
            }
        )

    def charge(self, measured: Measured) -> Charge:
        """Return the cost of one call; each amount is rounded to the nearest 10^-12, halves up."""
        cost = 0
        for name, amount in self.amounts.items():
            unit = UNITS[name]
            cost += (2 * amount * getattr(measured, unit.measure) + unit.size) // (2 * unit.size)
        return Charge(self.id, cost)


class PriceList:
    """The prices of a file, by provider and model."""

    def __init__(self, prices: Sequence[Price] = (), *, currency: str = "") -> None:
        self.currency = currency
        self.prices = tuple(prices)
        self._of: dict[tuple[str, str], list[Price]] = {}
        for price in sorted(prices, key=lambda one: one.since):
            self._of.setdefault((price.provider, price.model), []).append(price)

    def find(self, provider: str, model: str, day: date) -> Price | None:
        """Return the price of a call on a day (in UTC): that of the model at the provider, else that of the provider,
        else that of the model. None where no price is valid yet."""
        for key in ((provider, model), (provider, ""), ("", model)):
            known = self._of.get(key, ()) if any(key) else ()
            valid = bisect_right(known, day, key=lambda one: one.since)
            if valid:
                return known[valid - 1]
        return None

    def charge(self, provider: str, model: str, day: date, measured: Measured) -> Charge:
        """Return what a call costs; ``UNPRICED`` where there is no price for it."""
        price = self.find(provider, model, day) if self._of else None
        return UNPRICED if price is None else price.charge(measured)


def decimal(cost: int) -> str:
    """Return a cost as a decimal number of the currency, exactly: "0.0125"."""
    whole, rest = divmod(abs(cost), SCALE)
    text = f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
    return f"-{text}" if cost < 0 else text
