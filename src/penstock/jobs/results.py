"""Completed jobs in Redis, for clients that poll: a copy of what PostgreSQL has, which expires.

A completed job never changes, so its copy is never wrong. It is written when the job is first read; later reads do not
need PostgreSQL. While Redis is away or slow, such jobs are read from PostgreSQL.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.brokers.broker import BrokerUnavailable
from penstock.brokers.redis import Redis
from penstock.jobs.job import Job
from penstock.jobs.states import Status
from penstock.telemetry import metrics
from penstock.tenants.principal import TenantId

_MAX_BYTES: Final = 2**20  # of a job; larger ones are read from PostgreSQL
_READS = metrics.counter("penstock_redis_results", "Reads of completed jobs in Redis, by outcome.", ["outcome"])


class _Copy(msgspec.Struct, array_like=True, frozen=True):
    """A job as stored in Redis. The result is a field of its own, because raw JSON cannot be decoded as optional."""

    without_raw: Job
    result: list[Raw]  # one or none
    progress: list[Raw]

    @classmethod
    def of(cls, job: Job) -> _Copy:
        return cls(msgspec.structs.replace(job, result=None, progress=None), _listed(job.result), _listed(job.progress))

    def job(self) -> Job:
        result, progress = (next(iter(raw), None) for raw in (self.result, self.progress))
        return msgspec.structs.replace(self.without_raw, result=result, progress=progress)


class Results:
    """The completed jobs in Redis. The methods never raise: jobs that Redis lacks are read from PostgreSQL."""

    def __init__(self, redis: Redis, *, keep: timedelta) -> None:
        self._redis = redis
        self._keep = keep

    async def get(self, tenant: TenantId, job_id: UUID) -> Job | None:
        """Return the job if Redis has it."""
        try:
            with self._redis.client() as client:
                found = await client.get(_name(tenant, job_id))
        except BrokerUnavailable:
            return None
        _READS.labels("missed" if found is None else "found").inc()
        try:
            return None if found is None else msgspec.json.decode(found, type=_Copy).job()
        except (msgspec.MsgspecError, RecursionError):  # written by another version or another program
            return None

    async def put(self, tenant: TenantId, job: Job) -> None:
        """Keep a job, if it is completed and not too large."""
        if job.status is not Status.COMPLETED or len(body := msgspec.json.encode(_Copy.of(job))) > _MAX_BYTES:
            return
        try:
            with self._redis.client() as client:
                await client.set(_name(tenant, job.id), body, ex=self._keep)
        except BrokerUnavailable:
            return


def _name(tenant: TenantId, job_id: UUID) -> str:
    return f"penstock:job:{tenant}:{job_id.hex}"


def _listed(raw: Raw | None) -> list[Raw]:
    return [] if raw is None else [raw]
