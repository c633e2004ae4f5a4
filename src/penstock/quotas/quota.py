"""The definition of a quota: its subject, measure, window and limit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct

from penstock.errors import InvalidInput

Measure = Literal[
    "calls_at_once",
    "calls",
    "jobs",
    "pending_jobs",
    "stored_bytes",
    "stored_items",
    "tokens",
    "audio_seconds",
    "model_seconds",
    "cost",
]
Per = Literal["minute", "hour", "day", "month"]
OnCrash = Literal["free", "charge"]
Mode = Literal["soft", "strict"]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)")]
Limit = Annotated[int, Meta(ge=0, le=10**15)]

CALLS_AT_ONCE: Final = "calls_at_once"
CALLS: Final = "calls"
JOBS: Final = "jobs"
PENDING_JOBS: Final = "pending_jobs"
STORED_BYTES: Final = "stored_bytes"
STORED_ITEMS: Final = "stored_items"  # checked by the transaction that writes items, not by slices
TOKENS: Final = "tokens"
AUDIO_SECONDS: Final = "audio_seconds"
MODEL_SECONDS: Final = "model_seconds"
COST: Final = "cost"
EVERY_USER: Final = "*"
BUDGETS: Final = (TOKENS, AUDIO_SECONDS, MODEL_SECONDS, COST)  # counted by the usage ledger when calls have ended
# The ledger counts microseconds and 10^-12 of the currency; limits count seconds and millionths of the currency.
_SCALES: Final = {
    AUDIO_SECONDS: 10**6,
    MODEL_SECONDS: 10**6,
    COST: 10**6,
}
_LARGEST: Final = 9 * 10**18
_MOST_PENDING: Final = 10_000  # for a key or a user, because their pending jobs are counted one by one

MEANINGS: Final = {
    CALLS_AT_ONCE: "live calls of models in progress",
    CALLS: "live calls of models that began",
    JOBS: "jobs that were submitted",
    PENDING_JOBS: "jobs that wait for a worker; a submit is refused, a retry is not",
    STORED_BYTES: "bytes of uploaded files, until they are deleted or expire",
    STORED_ITEMS: "items of collections",
    TOKENS: "tokens in and out, of live calls and of the attempts of jobs",
    AUDIO_SECONDS: "seconds of sound that were processed",
    MODEL_SECONDS: "seconds that models and providers took",
    COST: "cost by the price list, in millionths of its currency",
}
_AT_A_TIME: Final = (CALLS_AT_ONCE, PENDING_JOBS, STORED_BYTES, STORED_ITEMS)
_CALENDAR: Final = ("hour", "day", "month")


class QuotaSetting(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quota to set. Without ``key`` and ``user`` it limits the whole tenant; ``user`` ``*`` limits every user, each
    on their own.

    ``on_crash`` is what happens to the part of the quota that a process held when it was killed: ``free`` gives it back
    within a minute, ``charge`` counts it as used. By default, hours, days and months charge.

    ``mode`` is for tokens: ``soft``, the default, refuses requests when the ledger has counted the limit, so it can
    be exceeded by what is in flight then; ``strict`` reserves what a call can use before it begins.
    """

    measure: Measure
    limit: Limit
    per: Per | None = None
    key: Name | None = None
    user: Name | None = None
    on_crash: OnCrash | None = None
    mode: Mode | None = None

    @property
    def strict(self) -> bool:
        return self.mode == "strict"

    @property
    def crash(self) -> OnCrash:
        return self.on_crash or ("charge" if self._can_charge else "free")

    @property
    def _can_charge(self) -> bool:
        return self.per in _CALENDAR and (self.strict or self.measure not in BUDGETS)

    def check(self) -> None:
        """Raise InvalidInput for fields that contradict each other."""
        if self.measure in _AT_A_TIME and self.per is not None:
            raise InvalidInput.of("per", f"cannot be used with {self.measure}, which limits an amount at a time")
        if self.measure not in _AT_A_TIME and self.per is None:
            raise InvalidInput.of("per", "is required: minute, hour, day or month")
        if self.key is not None and self.user is not None:
            raise InvalidInput.of("user", "cannot be used with key: a quota is for a key or for users")
        if self.measure in {STORED_BYTES, STORED_ITEMS} and (self.key or self.user):
            raise InvalidInput.of("measure", f"{self.measure} can be limited only for the whole tenant")
        if self.measure == PENDING_JOBS and (self.key or self.user) and self.limit > _MOST_PENDING:
            raise InvalidInput.of("limit", f"must be at most {_MOST_PENDING} for pending_jobs of a key or user")
        if self.on_crash == "charge" and not self._can_charge:
            raise InvalidInput.of(
                "on_crash", "can be charge only for calls, jobs and strict tokens per hour, day or month"
            )
        if self.mode is not None and self.measure != TOKENS:
            raise InvalidInput.of("mode", "can be used only with tokens")
        if self.per == "minute" and self.measure in BUDGETS:
            raise InvalidInput.of("per", f"must be hour, day or month for {self.measure}")
        if self.limit * scale_of(self.measure) > _LARGEST:
            raise InvalidInput.of("limit", f"must be at most {_LARGEST // scale_of(self.measure)}")


class Quota(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A quota, and its use in the current window.

    ``reserved`` is held by gateways: for requests in progress, or for the next ones. For a quota of every user, the
    numbers are those of the requested user. ``unaccounted`` is the part of ``used`` that was charged because a process
    was killed.
    """

    id: UUID
    measure: str
    limit: int
    on_crash: str
    per: str | None = None
    key: str | None = None
    user: str | None = None
    mode: str | None = None
    used: int | None = None
    reserved: int | None = None
    unaccounted: int = 0
    resets_at: datetime | None = None

    @property
    def name(self) -> str:
        return name_of(self.measure, self.per or "")

    @property
    def limits_calls(self) -> bool:
        """Whether live calls take from it."""
        return self.measure in {CALLS, CALLS_AT_ONCE, *BUDGETS}


class QuotaList(Struct, frozen=True, kw_only=True):
    """The quotas of a tenant."""

    quotas: list[Quota]


def scale_of(measure: str) -> int:
    """Return the number of the ledger's units in one unit of a limit."""
    return _SCALES.get(measure, 1)


def name_of(measure: str, per: str) -> str:
    """Return the name of a quota in responses, such as ``calls-per-minute``."""
    return f"{measure.replace('_', '-')}-per-{per}" if per else measure.replace("_", "-")
