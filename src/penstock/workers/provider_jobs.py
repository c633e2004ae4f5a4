"""Code shared by the executors that call providers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from penstock.jobs.usage import Usage
from penstock.jobs.work import ClaimedJob
from penstock.providers.agreement import Agreement, agreements
from penstock.providers.dispatch import Candidate, OnAttempt
from penstock.providers.profile import Mode, ProviderSpec
from penstock.providers.reply import ProviderAttempt
from penstock.telemetry import metrics
from penstock.work.context import JobContext, shortened

_CALLS = metrics.counter("penstock_provider_calls", "Calls to providers, by outcome.", ["provider", "outcome"])
_SECONDS = metrics.histogram("penstock_provider_seconds", "Time that providers took to respond.", ["provider"])
_CALLS_OF: Final[dict[tuple[str, str], Any]] = {}
_SECONDS_OF: Final[dict[str, Any]] = {}
_MAX_WAIT_SECONDS: Final = 20.0  # time that a job waits in its worker for closed gates before it returns to the queue


def max_wait_seconds(job: ClaimedJob) -> float:
    """Return the seconds to wait for a provider: less than the job's timeout, so that the attempt is not lost."""
    return _MAX_WAIT_SECONDS if job.timeout_seconds is None else min(_MAX_WAIT_SECONDS, job.timeout_seconds / 2)


def key(job: ClaimedJob, spec: ProviderSpec) -> str:
    """Return the idempotency key of this attempt's call, so that a worker that lost the job cannot get its response."""
    return f"{job.id}-{job.epoch}-{spec.name}"


def attempt_recorder(context: JobContext) -> OnAttempt:
    """Return a function that records attempts in the job's usage, and failures in its log: a line costs a heartbeat.

    Usage is counted under the model that a provider is configured with: the name in a response may change each time.
    """

    def record(candidate: Candidate, attempt: ProviderAttempt) -> None:
        context.used(
            Usage(
                provider=attempt.provider,
                model=candidate.model,
                status=attempt.status,
                prompt_tokens=attempt.usage.prompt_tokens,
                completion_tokens=attempt.usage.completion_tokens,
                audio_seconds=attempt.usage.audio_seconds,
                duration_ms=attempt.duration_ms,
                error=shortened(attempt.error) if attempt.error is not None else None,
            )
        )
        _count(attempt)
        if attempt.status in {"failed", "skipped"}:
            context.log(
                f"{attempt.provider} {attempt.status} after {attempt.duration_ms} ms: {attempt.error}", "warning"
            )

    return record


def _count(attempt: ProviderAttempt) -> None:
    """Measure an attempt. Finding a metric's child costs more than counting, so the few children are cached."""
    counted = (attempt.provider, attempt.status)
    if counted not in _CALLS_OF:
        _CALLS_OF[counted] = _CALLS.labels(*counted)
        _SECONDS_OF[attempt.provider] = _SECONDS.labels(attempt.provider)
    _CALLS_OF[counted].inc()
    if attempt.status == "completed":
        _SECONDS_OF[attempt.provider].observe(attempt.duration_ms / 1000)


async def agreement(mode: Mode, attempts: Sequence[ProviderAttempt]) -> list[Agreement]:
    """Return the agreement between the replies of all providers; empty unless the mode is "all"."""
    if mode is not Mode.ALL or len(attempts) < 2:
        return []
    return await asyncio.to_thread(agreements, attempts)
