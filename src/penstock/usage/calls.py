"""Live calls that have ended, summed up by what they have in common, until they are flushed."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import Final, NamedTuple

from penstock.tenants.principal import TenantId

_MAX_COUNT: Final = 10**12  # of any measure of one call, as jobs allow


class Dims(NamedTuple):
    """The dimensions by which calls are summed up. ``quarter`` (of an hour, since 1970) follows the
    database's clock, as far as it is known."""

    tenant: TenantId
    key_id: str
    user_id: str
    provider: str
    model: str
    version: str
    app: str
    price: str
    quarter: int = 0


class Amounts(NamedTuple):
    """The measures of one call, or of several."""

    calls: int = 0
    failures: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_us: int = 0
    model_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    sessions: int = 0
    cost: int = 0


@dataclass(slots=True)
class Sums:
    """Calls by their dimensions, each with the time at which the last one ended."""

    rows: dict[Dims, tuple[float, Amounts]] = field(default_factory=dict)
    calls: int = 0

    def add(self, dims: Dims, ended: float, amounts: Amounts) -> None:
        """Add a call, or the sum of several."""
        self.calls += amounts.calls
        known = self.rows.get(dims)
        if known is not None:
            last, sums = known
            ended = max(last, ended)
            amounts = Amounts._make(map(add, sums, amounts))
        self.rows[dims] = (ended, amounts)


def bounded(count: int) -> int:
    """Return a count within what the ledger takes from one call."""
    return count if 0 <= count <= _MAX_COUNT else min(max(count, 0), _MAX_COUNT)
