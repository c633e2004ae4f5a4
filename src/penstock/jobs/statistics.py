"""Sum up the counter tables' rows by queue and owner. No job row is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from penstock.jobs.counts import Counts, OwnerCounts, QueueCounts, Stats
from penstock.jobs.sql import reading
from penstock.jobs.sql.rows import Connection, Queue
from penstock.jobs.usage import ProviderCounts, UsageCounts
from penstock.tenants.principal import TenantId


@dataclass(slots=True, kw_only=True)
class QueueState:
    """The counters of one tenant's queue."""

    tenant: str
    task_type: str
    model_profile: str
    pending: int = 0
    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # by category
    oldest_pending_seconds: float = 0.0


async def of_all_tenants(connection: Connection) -> list[QueueState]:
    """Return the counters of the queues of all tenants, from the counter tables alone."""
    found: dict[tuple[str, str, str], QueueState] = {}
    for row in await reading.counts_of_all(connection):
        tenant, task_type, model_profile = row["tenant"], row["task_type"], row["model_profile"]
        state = found.setdefault(
            (tenant, task_type, model_profile),
            QueueState(tenant=tenant, task_type=task_type, model_profile=model_profile),
        )
        for name in ("pending", "running", "waiting", "completed", "failed", "cancelled"):
            setattr(state, name, getattr(state, name) + row[name])
        if row["category"] and row["errors"]:
            state.errors[row["category"]] = row["errors"]
    for row in await reading.oldest_pending_of_all(connection):
        state_of = found.get((row["tenant"], row["task_type"], row["model_profile"]))
        if state_of is not None:
            state_of.oldest_pending_seconds = max(row["seconds"], 0.0)
    return list(found.values())


async def gather(connection: Connection, tenant: TenantId, queues_of: Collection[Queue] | None = None) -> Stats:
    """Return all counters, or those of some queues, from the counter tables alone."""

    def wanted(row: asyncpg.Record) -> bool:
        return queues_of is None or (row["task_type"], row["model_profile"]) in queues_of

    rows = filter(wanted, await reading.counts(connection, tenant))
    oldest = {
        queue: seconds
        for queue, seconds in (await reading.oldest_pending(connection, tenant)).items()
        if queues_of is None or queue in queues_of
    }
    owners: dict[tuple[Queue, str], Counts] = {}
    for row in rows:
        key = ((row["task_type"], row["model_profile"]), row["owner_service"])
        owners[key] = _add(owners.get(key, Counts()), _counts(row))
    providers: dict[tuple[str, str], UsageCounts] = {}
    for row in filter(wanted, await reading.usage_counts(connection, tenant)):
        used = _used(row)
        key = ((row["task_type"], row["model_profile"]), row["owner_service"])
        owners[key] = _add(owners.get(key, Counts()), Counts(usage=used))
        served = (row["provider"], row["model"])
        providers[served] = providers.get(served, UsageCounts()).plus(used)
    queues: dict[Queue, list[OwnerCounts]] = {}
    for (queue, owner), counts in owners.items():
        queues.setdefault(queue, []).append(_owner_counts(owner, counts))
    totals = Counts()
    for counts in owners.values():
        totals = _add(totals, counts)
    return Stats(
        totals=totals,
        oldest_pending_seconds=max(oldest.values(), default=None),
        queues=[_queue_counts(queue, parts, oldest.get(queue)) for queue, parts in queues.items()],
        providers=[
            ProviderCounts(provider=provider, model=model, **_fields(used))
            for (provider, model), used in sorted(providers.items())
        ],
    )


def _used(row: asyncpg.Record) -> UsageCounts:
    return UsageCounts(
        calls=row["calls"],
        failures=row["failures"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        audio_seconds=round(row["audio_us"] / 1e6, 3),
        milliseconds=row["model_us"] // 1000,
    )


def _counts(row: asyncpg.Record) -> Counts:
    return Counts(
        pending=row["pending"],
        running=row["running"],
        waiting=row["waiting"],
        completed=row["completed"],
        failed=row["failed"],
        cancelled=row["cancelled"],
        errors={row["category"]: row["errors"]} if row["category"] and row["errors"] else {},
    )


def _add(left: Counts, right: Counts) -> Counts:
    errors = dict(left.errors)
    for category, count in right.errors.items():
        errors[category] = errors.get(category, 0) + count
    return Counts(
        pending=left.pending + right.pending,
        running=left.running + right.running,
        waiting=left.waiting + right.waiting,
        completed=left.completed + right.completed,
        failed=left.failed + right.failed,
        cancelled=left.cancelled + right.cancelled,
        errors=errors,
        usage=left.usage.plus(right.usage),
    )


def _fields(counts: Counts | UsageCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__}


def _owner_counts(owner: str, counts: Counts) -> OwnerCounts:
    return OwnerCounts(owner_service=owner, **_fields(counts))


def _queue_counts(queue: Queue, owners: list[OwnerCounts], oldest: float | None) -> QueueCounts:
    total = Counts()
    for part in owners:
        total = _add(total, part)
    task_type, model_profile = queue
    return QueueCounts(
        task_type=task_type, model_profile=model_profile, oldest_pending_seconds=oldest, owners=owners, **_fields(total)
    )
