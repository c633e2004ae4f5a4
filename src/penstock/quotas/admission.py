"""Admit requests within quotas: reserve first, then count what was used, or give it back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from penstock.errors import CallerError, Exceeded, InvalidInput, QuotaExceeded
from penstock.quotas.quota import (
    AUDIO_SECONDS,
    BUDGETS,
    CALLS,
    CALLS_AT_ONCE,
    COST,
    JOBS,
    MODEL_SECONDS,
    PENDING_JOBS,
    STORED_BYTES,
    TOKENS,
)
from penstock.quotas.rules import Needs, Rule, Rules, needs, needs_of_one
from penstock.quotas.slice import Slice
from penstock.quotas.slices import NothingLeft, Slices, Taken
from penstock.tenants.principal import Principal

_SOON: Final = timedelta(seconds=1)  # if other gateways hold some of the quota, which they may give back
_OF_CALLS: Final = frozenset({CALLS, CALLS_AT_ONCE, *BUDGETS})
_OF_JOBS: Final = frozenset({JOBS, PENDING_JOBS, *BUDGETS})
_OF_FILES: Final = frozenset({STORED_BYTES})
_SECONDS: Final = {"minute": 60, "hour": 3600}
_UNITS: Final = {
    CALLS_AT_ONCE: b';qu="concurrent-requests"',
    CALLS: b"",
    JOBS: b';qu="jobs"',
    PENDING_JOBS: b';qu="jobs"',
    STORED_BYTES: b';qu="content-bytes"',
    TOKENS: b';qu="tokens"',
    AUDIO_SECONDS: b';qu="seconds"',
    MODEL_SECONDS: b';qu="seconds"',
    COST: b';qu="millionths"',
}


class TokenNeed(NamedTuple):
    """The tokens that a call can use: the fewest with which it makes sense, and the most."""

    least: int
    most: int


class Admission:
    """The reservations of one request. End it in a ``finally``; ending it again changes nothing.

    ``tokens`` is how many the call may use, where a strict quota limits them.
    """

    __slots__ = ("_held", "_key", "_slices", "_strict", "tokens")

    def __init__(self, slices: Slices, key: str, held: dict[Slice, int], tokens: int | None = None) -> None:
        self._slices = slices
        self._key = key
        self._held = held
        self.tokens = tokens
        self._strict: dict[Slice, int] = {}  # tokens of a call in progress

    def settle(self) -> None:
        """Count what is reserved as used, except amounts at a time, which stay reserved until the end."""
        held, self._held = self._held, {}
        for one, amount in held.items():
            if one.rule.measure == CALLS_AT_ONCE or one.rule.strict:
                self._held[one] = amount
            else:
                one.settle(amount)

    def begin(self) -> None:
        """Keep the reserved tokens of a call that has begun until ``settle_tokens``, even if its client disconnects."""
        self._strict = {one: amount for one, amount in self._held.items() if one.rule.strict}
        for one in self._strict:
            del self._held[one]

    def settle_tokens(self, used: int | None) -> None:
        """Count the tokens that the call has used, and give back the rest. None means an unknown number: count all."""
        strict, self._strict = self._strict, {}
        for one, reserved in strict.items():
            one.replace(reserved, reserved if used is None else used)

    def give_back(self, users: Iterable[str]) -> None:
        """Give back jobs that were not created, one for each of ``users``."""
        rules = [one.rule for one in self._held]
        for (rule, subject), amount in needs(rules, _OF_JOBS, self._key, Counter(users)).items():
            for one in self._held:
                if one.rule is rule and one.subject == subject:
                    one.release(amount)
                    self._held[one] -= amount

    def keep(self, amount: int) -> None:
        """Give back what is reserved of each quota beyond ``amount``."""
        for one, reserved in self._held.items():
            if reserved > amount:
                one.release(reserved - amount)
                self._held[one] = amount

    def end(self) -> None:
        """Give back all that is still reserved."""
        held, self._held = self._held, {}
        if not held:
            return
        for one, amount in held.items():
            one.release(amount)
        now = time.monotonic()
        if any(one.excessive(now) for one in held):
            self._slices.sync()


class Limited:
    """A request that quotas concern: its admission, and the headers of its response."""

    __slots__ = ("_concerned", "admission", "strict")

    def __init__(self, admission: Admission, concerned: list[Slice], *, strict: bool = False) -> None:
        self.admission = admission
        self._concerned = concerned
        self.strict = strict  # whether a strict quota concerns it from which nothing was reserved

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return headers(self._concerned) if self._concerned else []

    @property
    def costs(self) -> bool:
        """Whether a quota of cost concerns it: then the models and providers that it calls must have prices."""
        return any(one.rule.measure == COST for one in self._concerned)

    @property
    def counts_jobs(self) -> bool:
        """Whether the jobs must be stored for a quota that counts them while they are pending."""
        return any(one.rule.counts_jobs for one in self._concerned)


class Quotas:
    """Admits the requests of one gateway. Without quotas, a request costs one look-up in a dictionary."""

    def __init__(self, rules: Rules, slices: Slices) -> None:
        self._rules = rules
        self._slices = slices

    def concern(self, principal: Principal) -> bool:
        """Return whether the tenant has any quota."""
        return self._rules.of(principal.tenant) is not None

    async def admit_call(
        self, principal: Principal, tokens: Callable[[], TokenNeed | None] = lambda: None
    ) -> Limited | None:
        """Reserve a live call; None if no quota concerns it. Raises QuotaExceeded or DatabaseUnavailable.

        If a strict quota of tokens concerns it, ``tokens`` is called, which returns None for a call that uses none. It
        may raise; then the call is refused.
        """
        return await self._admit(principal, _OF_CALLS, {principal.user or "": 1}, tokens)

    async def admit_jobs(self, principal: Principal, users: Sequence[str]) -> Limited | None:
        """Reserve jobs, one for each of ``users``; None if no quota concerns them. Raises as ``admit_call`` does."""
        return await self._admit(principal, _OF_JOBS, {users[0]: 1} if len(users) == 1 else Counter(users))

    @asynccontextmanager
    async def storing(self, principal: Principal, size: int | None) -> AsyncIterator[Admission | None]:
        """Reserve the bytes of a file while it is stored. The file has at most ``size`` bytes; None means unknown.

        Raises InvalidInput if the size is not known but a quota needs it, otherwise as ``admit_call`` does. If the
        block fails, the file may exist nevertheless; the database sums up the files that exist.
        """
        limited = await self._admit(principal, _OF_FILES, {"": size or 0})
        if limited is None:
            yield None
            return
        admission = limited.admission
        try:
            if size is None:
                raise InvalidInput.of("Content-Length", "is required: a quota of stored bytes limits this upload")
            yield admission
            admission.settle()
        except CallerError:
            raise
        except BaseException:
            admission.settle()
            raise
        finally:
            admission.end()

    async def _admit(
        self,
        principal: Principal,
        measures: frozenset[str],
        users: Mapping[str, int],
        tokens: Callable[[], TokenNeed | None] = lambda: None,
    ) -> Limited | None:
        rules = self._rules.of(principal.tenant)
        if rules is None:
            return None
        key = principal.key or ""
        if len(users) == 1 and sum(users.values()) == 1:
            needed = needs_of_one(rules, measures, key, *users)
        else:
            needed = needs(rules, measures, key, users)
        if not needed:
            return None
        if TOKENS in measures and (strict := [need for need in needed if need[0].strict]):
            return await self._admit_tokens(key, dict(needed), strict, tokens())
        taken = self._slices.take_now(needed) or await self._take(needed)
        return Limited(Admission(self._slices, key, dict(taken)), [one for one, _ in taken])

    async def _take(self, needed: Needs) -> Taken:
        try:
            return await self._slices.take(needed)
        except NothingLeft as refusal:
            raise exceeded(refusal.slice, refusal.amount) from None

    async def _admit_tokens(
        self,
        key: str,
        needed: dict[tuple[Rule, str], int],
        strict: Sequence[tuple[Rule, str]],
        tokens: TokenNeed | None,
    ) -> Limited:
        """Reserve the tokens that a call can use, or the fewer that strict quotas have left, and everything else it
        needs."""
        if tokens is None:
            taken = await self._take({need: amount for need, amount in needed.items() if need not in strict})
            return Limited(Admission(self._slices, key, dict(taken)), [one for one, _ in taken], strict=True)
        amount = tokens.most
        while True:
            try:
                taken = await self._slices.take(needed | dict.fromkeys(strict, amount))
            except NothingLeft as refusal:
                left = refusal.slice.remaining
                if not refusal.slice.rule.strict or amount <= tokens.least:
                    raise exceeded(refusal.slice, refusal.amount) from None
                amount = max(tokens.least, left if left < amount else amount // 2)
            else:
                return Limited(Admission(self._slices, key, dict(taken), amount), [one for one, _ in taken])


def exceeded(one: Slice, amount: int) -> QuotaExceeded:
    """Return the error of a request that needed more of a quota than is left."""
    rule = one.rule
    standing = one.standing
    most = (rule.most if standing is None else standing.most) // rule.scale
    used = most - one.remaining // rule.scale
    seconds = one.resets_in(time.monotonic())
    resets_in = None if seconds is None else timedelta(seconds=seconds)
    if amount > most and not rule.budget:
        return QuotaExceeded(
            f"the quota {rule.name} of {most} is less than the {amount} that this request needs",
            exceeded=Exceeded(quota=rule.name, limit=most, used=used),
        )
    shared = standing is not None and standing.others > 0
    return QuotaExceeded(
        f"the quota {rule.name} allows {most}, of which {used} are used",
        exceeded=Exceeded(
            quota=rule.name,
            limit=most,
            used=used,
            resets_at=None if resets_in is None else datetime.now(UTC) + resets_in,
        ),
        retry_after=_SOON if shared or resets_in is None else max(_SOON, resets_in),
    )


def headers(slices: Sequence[Slice]) -> list[tuple[bytes, bytes]]:
    """Return RateLimit-Policy and RateLimit, of draft-ietf-httpapi-ratelimit-headers-11."""
    now = time.monotonic()
    resets: list[float | None] = []
    numbers: list[float] = []
    for one in slices:
        numbers.append(one.remaining // one.rule.scale)
        resets_in = one.resets_in(now)
        resets.append(resets_in)
        if resets_in is not None:
            numbers.append(max(1.0, resets_in))
    policy, limits = _forms(tuple([one.rule for one in slices]), tuple([one is not None for one in resets]))
    return [(b"ratelimit-policy", policy), (b"ratelimit", limits % tuple(numbers))]


@lru_cache(maxsize=4096)
def _forms(rules: tuple[Rule, ...], resets: tuple[bool, ...]) -> tuple[bytes, bytes]:
    """Return RateLimit-Policy and a form of RateLimit. Quotas in ``resets`` state when they reset."""
    limits = [
        b'"%b";r=%%d%b' % (rule.name.encode(), b";t=%d" if reset else b"")
        for rule, reset in zip(rules, resets, strict=True)
    ]
    return b", ".join(map(_policy, rules)), b", ".join(limits)


def _policy(rule: Rule) -> bytes:
    """Return the policy of a quota. Months and days vary in length, so their windows are left out."""
    seconds = _SECONDS.get(rule.per)
    window = b"" if seconds is None else b";w=%d" % seconds
    return b'"%b";q=%d%b%b' % (rule.name.encode(), rule.most // rule.scale, _UNITS[rule.measure], window)
