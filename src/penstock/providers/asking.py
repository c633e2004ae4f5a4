"""Asking one or several providers the same thing: the first that answers, all of them, or the quickest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeAlias, assert_never

from msgspec import Struct

from penstock.jobs.states import ErrorCategory
from penstock.jobs.usage import Outcome
from penstock.models.runtimes.base import CallFailed
from penstock.providers.errors import WorkFailed, category_of
from penstock.providers.gate import Gate, NotNow


class Mode(StrEnum):
    """How several providers are asked."""

    FIRST = "first"  # in order, until one succeeds
    ALL = "all"  # all at once; the result is that of the first in order that succeeds
    RACE = "race"  # all at once, until one succeeds


class Used(Struct, frozen=True, kw_only=True):
    """What one call used."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    audio_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one provider answered. ``usage`` is the provider's own account of it, if it gave one."""

    text: str
    model: str
    used: Used
    segments: list[dict[str, Any]] | None = None
    language: str | None = None
    usage: dict[str, Any] | None = None


class ProviderAttempt(Struct, frozen=True, kw_only=True):
    """What became of asking one provider, as it stands in a job's result.

    ``status``: completed, failed, skipped (it was not asked: it limits us, or failed too often), cancelled (another one
    was quicker).
    """

    provider: str
    model: str
    status: Outcome
    text: str | None = None
    segments: list[dict[str, Any]] | None = None
    duration_ms: int = 0
    usage: Used = Used()
    error: str | None = None
    error_category: ErrorCategory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A provider that can be asked. ``ask`` raises CallFailed; ``model`` is what it is believed to run."""

    name: str
    model: str
    gate: Gate
    ask: Callable[[], Awaitable[Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The reply that counts, who gave it, and what became of every provider."""

    provider: str
    reply: Reply
    attempts: list[ProviderAttempt]


@dataclass(frozen=True, slots=True)
class _Outcome:
    attempt: ProviderAttempt
    reply: Reply | None = None
    retry_after: float | None = None  # seconds, where the provider or its gate named them


Tell = Callable[[ProviderAttempt], None]
_Together: TypeAlias = Callable[[Sequence[Candidate], float, Tell], Awaitable[list[_Outcome]]]


def _never() -> bool:
    return False


async def ask(
    candidates: Sequence[Candidate], mode: Mode, *, patience: float, tell: Tell, stop: Callable[[], bool] = _never
) -> Answered:
    """Ask providers in a mode; ``tell`` is told of every attempt as it ends.

    ``patience``: seconds to wait for a provider that may not be asked just now, when there is none that may. With
    ``stop`` no other provider is asked after one that failed. Raises WorkFailed when none of them succeeds.
    """
    match mode:
        case Mode.FIRST:
            outcomes = await _first(candidates, patience, tell, stop)
        case Mode.ALL:
            outcomes = await _together(candidates, patience, tell, _all)
        case Mode.RACE:
            outcomes = await _together(candidates, patience, tell, _race)
        case _:
            assert_never(mode)
    if mode is Mode.ALL:
        order = [candidate.name for candidate in candidates]
        outcomes.sort(key=lambda outcome: order.index(outcome.attempt.provider))
    attempts = [outcome.attempt for outcome in outcomes]
    for outcome in outcomes:
        if outcome.reply is not None:
            return Answered(provider=outcome.attempt.provider, reply=outcome.reply, attempts=attempts)
    raise _no_answer(outcomes)


async def _first(
    candidates: Sequence[Candidate], patience: float, tell: Tell, stop: Callable[[], bool]
) -> list[_Outcome]:
    """In order; those that may not be asked now are passed over, and waited for only when no other succeeded."""
    outcomes: list[_Outcome] = []
    later: list[Candidate] = []
    for candidate in candidates:
        if len(candidates) > 1 and candidate.gate.wait() > 0:
            later.append(candidate)
            continue
        outcomes.append(await _one(candidate, 0.0 if len(candidates) > 1 else patience, tell))
        if outcomes[-1].reply is not None or stop():
            return [*outcomes, *(_passed_over(candidate, tell) for candidate in later)]
    for candidate in sorted(later, key=lambda one: one.gate.wait()):
        outcomes.append(await _one(candidate, patience, tell))
        if outcomes[-1].reply is not None or stop():
            break
    return outcomes


async def _together(candidates: Sequence[Candidate], patience: float, tell: Tell, run: _Together) -> list[_Outcome]:
    """At once, but for those that failed too often of late: they hold up nobody, unless no other succeeds."""
    awake = [candidate for candidate in candidates if not candidate.gate.resting]
    resting = [candidate for candidate in candidates if candidate.gate.resting]
    outcomes = await run(awake, patience, tell)
    if any(outcome.reply is not None for outcome in outcomes):
        return [*outcomes, *(_passed_over(candidate, tell) for candidate in resting)]
    return [*outcomes, *await run(resting, patience, tell)]


async def _all(candidates: Sequence[Candidate], patience: float, tell: Tell) -> list[_Outcome]:
    return await asyncio.gather(*(_one(candidate, patience, tell) for candidate in candidates))


async def _race(candidates: Sequence[Candidate], patience: float, tell: Tell) -> list[_Outcome]:
    """The quickest stands first, then those that failed before it, then those that were given up."""
    tasks = {asyncio.ensure_future(_one(candidate, patience, tell)): candidate for candidate in candidates}
    ended: list[_Outcome] = []
    try:
        for task in asyncio.as_completed(tasks):
            outcome = await task
            ended.append(outcome)
            if outcome.reply is not None:
                break
    finally:
        for running in tasks:
            running.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    known = {outcome.attempt.provider for outcome in ended}
    beaten = [_given_up(one, tell) for one in candidates if one.name not in known]
    return [*sorted(ended, key=lambda outcome: outcome.reply is None), *beaten]


async def _one(candidate: Candidate, patience: float, tell: Tell) -> _Outcome:
    begun = time.monotonic()
    try:
        async with candidate.gate.turn(patience):
            begun = time.monotonic()  # waiting for one's turn is not the provider's time
            reply = await candidate.ask()
    except NotNow as refusal:
        outcome = _Outcome(
            _attempt(candidate, "skipped", error=refusal.reason, category=ErrorCategory.RATE_LIMITED),
            retry_after=refusal.seconds,
        )
    except CallFailed as error:
        where = f"{error.field}: " if error.field else ""
        outcome = _Outcome(
            _attempt(
                candidate,
                "failed",
                error=where + error.message,
                category=category_of(error),
                duration_ms=_since(begun),
            ),
            retry_after=error.retry_after if error.retry_after is not None else candidate.gate.wait() or None,
        )
    else:
        attempt = ProviderAttempt(
            provider=candidate.name,
            model=reply.model,
            status="completed",
            text=reply.text,
            segments=reply.segments,
            duration_ms=_since(begun),
            usage=reply.used,
        )
        outcome = _Outcome(attempt, reply)
    tell(outcome.attempt)
    return outcome


def _passed_over(candidate: Candidate, tell: Tell) -> _Outcome:
    attempt = _attempt(candidate, "skipped", error=candidate.gate.reason, category=ErrorCategory.RATE_LIMITED)
    tell(attempt)
    return _Outcome(attempt)


def _given_up(candidate: Candidate, tell: Tell) -> _Outcome:
    attempt = _attempt(candidate, "cancelled", error="another provider was quicker")
    tell(attempt)
    return _Outcome(attempt)


def _attempt(
    candidate: Candidate, status: Outcome, *, error: str, category: ErrorCategory | None = None, duration_ms: int = 0
) -> ProviderAttempt:
    return ProviderAttempt(
        provider=candidate.name,
        model=candidate.model,
        status=status,
        error=error,
        error_category=category,
        duration_ms=duration_ms,
    )


def _no_answer(outcomes: Sequence[_Outcome]) -> WorkFailed:
    """What the job's rules should know: whether to try again, and when.

    A provider that may be asked later outweighs those that failed: then the job waits, and burns no attempt. Input is
    bad only when every provider says so; one of them may merely be unable to take it.
    """
    message = "; ".join(f"{one.attempt.provider}: {one.attempt.error}" for one in outcomes)
    categories = {one.attempt.error_category for one in outcomes}
    if ErrorCategory.RATE_LIMITED in categories:
        waits = [
            one.retry_after
            for one in outcomes
            if one.attempt.error_category is ErrorCategory.RATE_LIMITED and one.retry_after is not None
        ]
        return WorkFailed(
            ErrorCategory.RATE_LIMITED, message, retry_after=timedelta(seconds=min(waits)) if waits else None
        )
    if len(categories) == 1 and None not in categories:
        (category,) = categories
        return WorkFailed(category or ErrorCategory.PROVIDER_ERROR, message, retry_after=_soonest(outcomes))
    return WorkFailed(ErrorCategory.PROVIDER_ERROR, message, retry_after=_soonest(outcomes))


def _soonest(outcomes: Sequence[_Outcome]) -> timedelta | None:
    """When the first of the providers may be asked again; None when one of them names no wait."""
    waits = [one.retry_after for one in outcomes]
    stated = [wait for wait in waits if wait is not None]
    return timedelta(seconds=min(stated)) if stated and len(stated) == len(waits) else None


def _since(begun: float) -> int:
    return round(1000 * (time.monotonic() - begun))
