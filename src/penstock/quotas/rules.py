"""The quotas of all tenants, as a gateway last read them, and the choice of those that concern a request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

from penstock.quotas.quota import BUDGETS, EVERY_USER, PENDING_JOBS, name_of, scale_of
from penstock.tenants.principal import TenantId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """One quota, without its use. Compared by identity, which is quick; the ``id`` stays the same after a change."""

    tenant: TenantId
    id: UUID
    measure: str
    per: str  # the window; "" for an amount at a time
    most: int
    key: str = ""
    user: str = ""
    strict: bool = False  # of tokens: a call reserves what it can use before it begins
    name: str = field(init=False)
    scale: int = field(init=False)  # number of the ledger's units in one unit of the limit

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", name_of(self.measure, self.per))
        object.__setattr__(self, "scale", scale_of(self.measure))

    @property
    def budget(self) -> bool:
        """Whether the ledger counts its measure, so that requests take nothing from it."""
        return self.measure in BUDGETS and not self.strict

    @property
    def counts_jobs(self) -> bool:
        """Whether jobs that it admits must be stored (``store.count_jobs``), so that they can be counted."""
        return self.measure == PENDING_JOBS and bool(self.key or self.user)

    def subject_of(self, key: str, user: str) -> str | None:
        """Return the subject that a request of that key and user counts for, or None if the quota does not concern
        it."""
        if self.user == EVERY_USER:
            return user or None
        if self.key not in {"", key} or self.user not in {"", user}:
            return None
        return ""


class Rules:
    """The quotas of all tenants. A tenant without quotas costs one look-up in a dictionary."""

    def __init__(self) -> None:
        self._of: dict[TenantId, tuple[Rule, ...]] = {}

    def of(self, tenant: TenantId) -> tuple[Rule, ...] | None:
        """Return the quotas of a tenant, or None if there are none."""
        return self._of.get(tenant)

    def replace(self, tenants: Iterable[TenantId], rules: Sequence[Rule]) -> None:
        """Replace the quotas of some tenants."""
        for tenant in tenants:
            self._of.pop(tenant, None)
        for rule in rules:
            self._of[rule.tenant] = (*self._of.get(rule.tenant, ()), rule)

    def replace_all(self, rules: Sequence[Rule]) -> None:
        """Replace the quotas of all tenants."""
        self.replace(list(self._of), rules)


Needs = Mapping[tuple[Rule, str], int]


@lru_cache(maxsize=4096)
def needs_of_one(rules: tuple[Rule, ...], measures: frozenset[str], key: str, user: str) -> Needs:
    """Return ``needs`` for a request that takes one unit for one user."""
    return needs(rules, measures, key, {user: 1})


def needs(
    rules: Sequence[Rule], measures: Collection[str], key: str, users: Mapping[str, int]
) -> dict[tuple[Rule, str], int]:
    """Return the amount that a request takes of each quota of some measures that concerns it, by quota and subject.

    ``users`` holds the amount for each user.
    """
    found: dict[tuple[Rule, str], int] = {}
    for rule in rules:
        if rule.measure in measures:
            for user, amount in users.items():
                subject = rule.subject_of(key, user)
                if subject is not None:
                    found[rule, subject] = found.get((rule, subject), 0) + amount
    return found
