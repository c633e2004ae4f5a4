"""Dispatch one request to one or several providers: in order until one succeeds, to all, or to race them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import assert_never

from msgspec import Struct

from penstock.failures import CallFailed, Category
from penstock.jobs.usage import Outcome
from penstock.outbound.gate import Gate, GateClosed
from penstock.outbound.limits import MAX_STATED
from penstock.providers.metered import MeteredGate
from penstock.providers.profile import Mode
from penstock.providers.reply import ProviderAttempt, Reply, Used
from penstock.telemetry import logs

log = logs.get(__name__)


class Candidate(Struct, frozen=True, kw_only=True):
    """A provider that can be called; ``model`` is what it is configured to run.

    ``call`` makes each call to the provider in a slot of its own, and raises CallFailed. ``prepare`` does what must be
    done before, outside of the provider's time; a CallFailed that it raises does not count against the provider.
    """

    name: str
    model: str
    gate: Gate
    call: Callable[[MeteredGate], Awaitable[Reply]]
    prepare: Callable[[], Awaitable[None]] | None = None


class Dispatched(Struct, frozen=True, kw_only=True):
    """The chosen reply, the provider that returned it, and the attempts of all providers."""

    provider: str
    reply: Reply
    attempts: list[ProviderAttempt]


OnAttempt = Callable[[Candidate, ProviderAttempt], None]


def _never() -> bool:
    return False


async def dispatch(
    candidates: Sequence[Candidate],
    mode: Mode,
    *,
    max_wait_seconds: float,
    on_attempt: OnAttempt,
    stop: Callable[[], bool] = _never,
) -> Dispatched:
    """Call providers in a mode, and ``on_attempt`` with every attempt as it ends.

    ``max_wait_seconds`` bounds the whole wait for closed gates, which happens only when no open one is left. Once
    ``stop`` returns true, no further provider is called after a failure. Raises CallFailed when none succeeds.
    """
    run = _Dispatch(max_wait_seconds, on_attempt)
    match mode:
        case Mode.FIRST:
            await run.first(candidates, stop)
        case Mode.ALL:
            await run.together(candidates, run.all)
        case Mode.RACE:
            await run.together(candidates, run.race)
        case _:
            assert_never(mode)
    outcomes = run.outcomes
    if mode is Mode.ALL:
        order = [candidate.name for candidate in candidates]
        outcomes.sort(key=lambda outcome: order.index(outcome.attempt.provider))
    elif mode is Mode.RACE:
        outcomes.sort(key=lambda outcome: outcome.reply is None)
    for outcome in outcomes:
        if outcome.reply is not None:
            attempts = [one.attempt for one in outcomes]
            return Dispatched(provider=outcome.attempt.provider, reply=outcome.reply, attempts=attempts)
    raise _all_failed([one for one in outcomes if one.attempt.status == "failed"] if stop() else outcomes)


class _Outcome(Struct, frozen=True):
    attempt: ProviderAttempt
    reply: Reply | None = None
    retry_after: float | None = None  # seconds to wait, if the provider or its gate stated them


class _Dispatch:
    """One request: the outcomes of its providers so far, in the order in which they ended."""

    def __init__(self, max_wait_seconds: float, on_attempt: OnAttempt) -> None:
        self.outcomes: list[_Outcome] = []
        self._deadline = time.monotonic() + max_wait_seconds
        self._on_attempt = on_attempt
        self._beaten = False

    @property
    def succeeded(self) -> bool:
        return any(outcome.reply is not None for outcome in self.outcomes)

    async def first(self, candidates: Sequence[Candidate], stop: Callable[[], bool]) -> None:
        """Call in order. Providers whose gate is closed are skipped, and waited for only when no other succeeded."""
        later: list[Candidate] = []
        for candidate in candidates:
            if len(candidates) > 1 and candidate.gate.wait() > 0:
                later.append(candidate)
                continue
            await self._one(candidate, waits=len(candidates) == 1)
            if self.succeeded or stop():
                break
        for candidate in sorted(later, key=lambda one: one.gate.wait()):
            if self.succeeded or stop():
                self._skip(candidate)
            else:
                await self._one(candidate, waits=True)

    async def together(
        self, candidates: Sequence[Candidate], run: Callable[[Sequence[Candidate]], Awaitable[None]]
    ) -> None:
        """Call concurrently. Providers that pause after failures are called only when no other succeeds, so that they
        do not delay the others."""
        awake: list[Candidate] = []
        resting: list[Candidate] = []
        for candidate in candidates:
            (resting if candidate.gate.resting else awake).append(candidate)
        await run(awake)
        if not self.succeeded:
            await run(resting)
            return
        for candidate in resting:
            self._skip(candidate)

    async def all(self, candidates: Sequence[Candidate]) -> None:
        """Call all, and wait for each to end."""
        tasks = [asyncio.ensure_future(self._one(candidate, waits=True)) for candidate in candidates]
        try:
            await asyncio.gather(*tasks)
        finally:  # no call continues after an unexpected exception
            await _ended(tasks)

    async def race(self, candidates: Sequence[Candidate]) -> None:
        """Call all until one succeeds, and cancel the others."""
        tasks = {asyncio.ensure_future(self._one(candidate, waits=True)) for candidate in candidates}
        running = set(tasks)
        try:
            while running and not self.succeeded:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            self._beaten = self.succeeded
            await _ended(tasks)

    async def _one(self, candidate: Candidate, *, waits: bool) -> None:
        gate = MeteredGate(candidate.gate, max(self._deadline - time.monotonic(), 0.0) if waits else 0.0)
        try:
            if candidate.prepare is not None:
                await candidate.prepare()
            reply = await candidate.call(gate)
        except GateClosed as refusal:
            category = Category.RATE_LIMITED if refusal.limited else Category.PROVIDER_ERROR
            status: Outcome = "failed" if gate.entered else "skipped"
            attempt = _attempt(candidate, status, error=refusal.reason, category=category, gate=gate)
            self._note(candidate, _Outcome(attempt, retry_after=refusal.seconds))
        except CallFailed as error:
            stated = candidate.gate.wait() or None if error.retry_after is None else error.retry_after.total_seconds()
            wait = None if stated is None else min(stated, MAX_STATED)
            self._note(candidate, _Outcome(_failed(candidate, error, gate), retry_after=wait))
        except asyncio.CancelledError:
            self._cancelled(candidate, gate)
            raise
        except Exception as error:  # a bug with one provider must not lose the reply of another
            log.exception("provider_call_failed", provider=candidate.name)
            failed = CallFailed(Category.INTERNAL, f"it could not be called ({type(error).__name__})")
            self._note(candidate, _Outcome(_failed(candidate, failed, gate)))
        else:
            attempt = ProviderAttempt(
                provider=candidate.name,
                model=reply.model,
                status="completed",
                text=reply.text,
                segments=reply.segments,
                duration_ms=gate.duration_ms,
                usage=reply.used,
            )
            self._note(candidate, _Outcome(attempt, reply))

    def _cancelled(self, candidate: Candidate, gate: MeteredGate) -> None:
        """Note a call that was cancelled while it ran, or before it began."""
        why = "another provider was quicker" if self._beaten else "the job ended before it responded"
        status: Outcome = "cancelled" if gate.entered else "skipped"
        self._note(candidate, _Outcome(_attempt(candidate, status, error=why, gate=gate)))

    def _skip(self, candidate: Candidate) -> None:
        category = Category.PROVIDER_ERROR if candidate.gate.resting else Category.RATE_LIMITED
        attempt = _attempt(candidate, "skipped", error=candidate.gate.reason, category=category)
        self._note(candidate, _Outcome(attempt, retry_after=candidate.gate.wait()))

    def _note(self, candidate: Candidate, outcome: _Outcome) -> None:
        self.outcomes.append(outcome)
        self._on_attempt(candidate, outcome.attempt)


async def _ended(tasks: Collection[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _failed(candidate: Candidate, error: CallFailed, gate: MeteredGate) -> ProviderAttempt:
    where = f"{error.field}: " if error.field else ""
    return _attempt(candidate, "failed", error=where + error.message, category=error.category, gate=gate)


def _attempt(
    candidate: Candidate,
    status: Outcome,
    *,
    error: str,
    category: Category | None = None,
    gate: MeteredGate | None = None,
) -> ProviderAttempt:
    return ProviderAttempt(
        provider=candidate.name,
        model=candidate.model,
        status=status,
        error=error,
        error_category=category,
        duration_ms=0 if gate is None else gate.duration_ms,
        usage=Used() if gate is None else gate.used,
    )


def _all_failed(outcomes: Sequence[_Outcome]) -> CallFailed:
    """Return the failure that determines whether, and when, the job is tried again.

    If a provider limits us, or if no provider was called because all of them pause, the job waits and loses no attempt,
    whatever other providers reported. The input is bad only when every provider was called and refused it; a single
    one may be unable to take it.
    """
    message = "; ".join(f"{one.attempt.provider}: {one.attempt.error}" for one in outcomes)
    limited = [one for one in outcomes if one.attempt.error_category is Category.RATE_LIMITED]
    called = [one for one in outcomes if one.attempt.status == "failed"]
    if limited or not called:
        waits = [one.retry_after for one in limited or outcomes if one.retry_after is not None]
        soonest = timedelta(seconds=min(waits)) if waits else None
        return CallFailed(Category.RATE_LIMITED, message, retry_after=soonest)
    categories = {one.attempt.error_category for one in called}
    category = categories.pop() if len(categories) == 1 else None
    skipped = [one for one in outcomes if one.attempt.status == "skipped"]
    if category is Category.BAD_INPUT and skipped:
        return CallFailed(Category.PROVIDER_ERROR, message, retry_after=_soonest(skipped))
    return CallFailed(category or Category.PROVIDER_ERROR, message, retry_after=_soonest(called))


def _soonest(outcomes: Sequence[_Outcome]) -> timedelta | None:
    """Return the seconds until the first of the providers may be called; None when one of them states no wait."""
    stated = [one.retry_after for one in outcomes if one.retry_after is not None]
    return timedelta(seconds=min(stated)) if stated and len(stated) == len(outcomes) else None
