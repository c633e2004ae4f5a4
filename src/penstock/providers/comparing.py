"""Compare providers over many jobs: agreement, failures and latency. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from penstock.jobs.usage import Usage
from penstock.providers.agreement import Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One job: every call that was made for it, including those of failed attempts, and how its replies agree."""

    usage: Sequence[Usage]
    agreement: Sequence[Agreement]


class Latency(Struct, frozen=True, kw_only=True):
    """The duration of successful calls, in milliseconds."""

    p50: int
    p95: int
    longest: int


class ProviderRecord(Struct, frozen=True, kw_only=True):
    """The figures of one provider. Of calls that lost a race only their number is known (``cancelled``)."""

    provider: str
    models: list[str]
    calls: int  # made: completed, failed and cancelled
    completed: int
    failed: int
    cancelled: int
    skipped: int  # not made: its gate was closed
    failure_rate: float | None  # of the calls that were not cancelled; null when there are none
    latency_ms: Latency | None
    prompt_tokens: int
    completion_tokens: int
    audio_seconds: float
    realtime_factor: float | None  # seconds of processing per second of sound; null without sound
    errors: dict[str, int]  # its most common messages


class PairRecord(Struct, frozen=True, kw_only=True):
    """The difference of two providers' texts: word error rates against ``reference``, over the jobs with both."""

    reference: str
    hypothesis: str
    jobs: int
    wer: float | None  # errors of all jobs divided by words of all jobs
    wer_median: float | None
    wer_worst: float | None


class Comparison(Struct, frozen=True, kw_only=True):
    """A summary of jobs."""

    jobs: int  # jobs that called providers
    providers: list[ProviderRecord]
    agreement: list[PairRecord]


_MAX_PAIRS = 400  # the pairs of twenty providers, a bound because any worker may write results
_ERRORS = 5  # messages that are shown for each provider


def compare(jobs: Iterable[Compared]) -> Comparison:
    """Summarize jobs; those that called no provider are left out."""
    called = [job for job in jobs if any(usage.provider for usage in job.usage)]
    calls: dict[str, list[Usage]] = {}
    pairs: dict[tuple[str, str], list[Agreement]] = {}
    for job in called:
        for usage in job.usage:
            if usage.provider:
                calls.setdefault(usage.provider, []).append(usage)
        for pair, one in {(one.reference, one.hypothesis): one for one in job.agreement[:_MAX_PAIRS]}.items():
            if pair in pairs or len(pairs) < _MAX_PAIRS:
                pairs.setdefault(pair, []).append(one)
    return Comparison(
        jobs=len(called),
        providers=[_record(name, calls[name]) for name in sorted(calls)],
        agreement=[_pair(*pair, pairs[pair]) for pair in sorted(pairs)],
    )


def _record(provider: str, calls: Sequence[Usage]) -> ProviderRecord:
    outcomes = Counter(call.status for call in calls)
    completed = [call for call in calls if call.status == "completed"]
    ended = outcomes["completed"] + outcomes["failed"]
    heard = [call for call in completed if call.audio_seconds]
    sound = sum(call.audio_seconds for call in heard)
    return ProviderRecord(
        provider=provider,
        models=sorted({call.model for call in calls if call.model}),
        calls=len(calls) - outcomes["skipped"],
        completed=outcomes["completed"],
        failed=outcomes["failed"],
        cancelled=outcomes["cancelled"],
        skipped=outcomes["skipped"],
        failure_rate=round(outcomes["failed"] / ended, 4) if ended else None,
        latency_ms=_latency([call.duration_ms for call in completed]),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        audio_seconds=round(sound, 3),
        realtime_factor=round(sum(call.duration_ms for call in heard) / 1000 / sound, 4) if sound else None,
        errors=dict(
            Counter(call.error for call in calls if call.status == "failed" and call.error).most_common(_ERRORS)
        ),
    )


def _latency(milliseconds: Sequence[int]) -> Latency | None:
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    return Latency(p50=_quantile(ordered, 0.5), p95=_quantile(ordered, 0.95), longest=ordered[-1])


def _quantile(ordered: Sequence[int], part: float) -> int:
    """Return the nearest-rank percentile, which is always a measured value."""
    return ordered[max(math.ceil(len(ordered) * part) - 1, 0)]


def _pair(reference: str, hypothesis: str, found: Sequence[Agreement]) -> PairRecord:
    known = [(one.wer, one.words) for one in found if one.wer is not None]
    words = sum(count for _, count in known)
    rates = [rate for rate, _ in known]
    return PairRecord(
        reference=reference,
        hypothesis=hypothesis,
        jobs=len(found),
        wer=round(sum(rate * count for rate, count in known) / words, 4) if words else (0.0 if known else None),
        wer_median=round(statistics.median(rates), 4) if rates else None,
        wer_worst=max(rates) if rates else None,
    )
