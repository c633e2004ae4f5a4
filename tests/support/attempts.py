"""A claimed job and its context, for tests of executors."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.jobs.work import ClaimedJob
from penstock.work.context import JobContext

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def claimed_job(*, timeout_seconds: float | None = None, task_type: str = "llm_chat", **fields: object) -> ClaimedJob:
    """Return a job with this input."""
    return ClaimedJob(
        tenant="default",
        id=UUID(int=7),
        epoch=3,
        owner_service="tests",
        owner_ref="",
        task_type=task_type,
        model_profile="qwen",
        priority=0,
        attempt=1,
        max_attempts=3,
        timeout_seconds=timeout_seconds,
        lease_expires_at=_NOW,
        created_at=_NOW,
        tags=[],
        input=Raw(msgspec.json.encode(fields)),
    )


def job_context() -> JobContext:
    """Return a context whose reports go nowhere."""
    return JobContext(lambda: None)
