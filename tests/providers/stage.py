"""What tests of providers share: specifications, profiles, jobs, and a clock that stands until it is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.jobs.job import ClaimedJob
from penstock.providers.dispatch import Mode
from penstock.providers.endpoint import Endpoint
from penstock.providers.profile import Kind, Profile, ProviderSpec
from penstock.providers.servers import Servers
from penstock.work.context import JobContext

KEY = "sk-very-secret-key"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class StandingClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def spec(
    url: str, *, name: str = "llm", kind: Kind = Kind.CHAT, api_key: str | None = KEY, **fields: Any
) -> ProviderSpec:
    """A provider at an address."""
    stated: dict[str, Any] = {"model": "qwen", "timeout": timedelta(seconds=20)} | fields
    return ProviderSpec(name=name, kind=kind, endpoint=Endpoint(base_url=url, api_key=api_key), **stated)


def profile(*specs: ProviderSpec, mode: Mode = Mode.FIRST, **defaults: Any) -> Profile:
    """A profile of these providers."""
    return Profile(name="qwen", providers=specs, mode=mode, defaults=defaults)


@asynccontextmanager
async def opened() -> AsyncIterator[Servers]:
    """Connections to providers."""
    servers = Servers()
    try:
        yield servers
    finally:
        await servers.close()


def job(*, timeout_seconds: float | None = None, task_type: str = "llm_chat", **fields: object) -> ClaimedJob:
    """A job with this input."""
    return ClaimedJob(
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


def context() -> JobContext:
    """A context whose reports go nowhere."""
    return JobContext(lambda: None)
