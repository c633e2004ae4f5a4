"""The types that the statements about jobs share, and functions that read columns which several of them return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from penstock.jobs.job import JobSubmission
from penstock.jobs.states import Tally
from penstock.tenants.principal import TenantId

Connection = asyncpg.Connection
Queue = tuple[str, str]  # task type, model profile
Lane = tuple[str, str, int, bool]  # task type, model profile, priority, whether its jobs have concurrency keys
TenantQueue = tuple[TenantId, str, str]  # the same of one tenant
LimitedKey = tuple[int, str]  # a lane of a queue that has a rule for concurrency keys, and a concurrency key
_SEPARATOR = "\x1f"  # in what the schema's flow_queue() returns


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A submission with everything else that the statement needs."""

    id: UUID
    series_id: int
    lane_id: int
    submitter_id: int
    max_attempts: int
    submission: JobSubmission
    counted: bool = False  # whether a quota of pending jobs of its key or user counts it
    endpoint_id: UUID | None = None  # of its callback
    marketplace_id: UUID | None = None  # the marketplace's endpoint, if it gets the result

    @property
    def queue(self) -> Queue:
        return (self.submission.task_type, self.submission.model_profile)

    @property
    def has_callback(self) -> bool:
        return self.endpoint_id is not None or self.marketplace_id is not None

    @property
    def expires(self) -> bool:
        """Whether the job fails when no worker has taken it in time."""
        return self.submission.expires_at is not None or self.submission.ttl_seconds is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """A lease locked by the current transaction, with what the rules need to end it."""

    tenant: TenantId
    job_id: UUID
    epoch: int
    worker_id: str | None
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailed:
    """The runs of flows that received mail from a statement."""

    runs: Sequence[UUID] = ()
    woken: Sequence[str] = ()  # the model profiles of those that are ready again
    blocked: Sequence[LimitedKey] = ()  # the keys of woken ones that are blocked until they get a place

    @classmethod
    def of(cls, rows: Sequence[asyncpg.Record]) -> Mailed:
        """Read the columns that each row of such a statement has."""
        if not rows or rows[0]["mailed"] is None:
            return NO_MAIL
        return cls.to(rows[0]["mailed"], rows[0]["woken"])

    @classmethod
    def to(cls, runs: Sequence[UUID], queues: Sequence[str | None]) -> Mailed:
        """Return the runs with the queues of those that are woken, as flow_queue() of the schema names them."""
        woken = [queue for queue in queues if queue is not None]
        blocked = [queue.split(_SEPARATOR, 2) for queue in woken if queue.startswith(_SEPARATOR)]
        return cls(
            runs=runs,
            woken=[queue for queue in woken if not queue.startswith(_SEPARATOR)],
            blocked=[(int(lane), key) for _, lane, key in blocked],
        )

    def __add__(self, other: Mailed) -> Mailed:
        return Mailed(
            runs=[*self.runs, *other.runs],
            woken=[*self.woken, *other.woken],
            blocked=[*self.blocked, *other.blocked],
        )


NO_MAIL = Mailed()


def held(row: asyncpg.Record, tenant: TenantId, worker_id: str | None) -> HeldLease:
    """Convert the row of a locked lease."""
    return HeldLease(
        tenant=tenant,
        job_id=row["job_id"],
        epoch=row["epoch"],
        worker_id=worker_id,
        tally=Tally(
            attempt=row["attempt"],
            failures=row["failures"],
            losses=row["losses"],
            max_attempts=row["max_attempts"],
            cancel_requested=row["cancel_requested"],
            is_run=row["is_run"],
        ),
    )


def limited_keys(rows: Sequence[asyncpg.Record]) -> list[LimitedKey]:
    """Return the keys in the columns ``lane_id`` and ``limited_key``."""
    return [(row["lane_id"], row["limited_key"]) for row in rows if row["limited_key"] is not None]
