"""Concurrency keys: the typed functions of ``keys.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from penstock.jobs.sql.rows import Connection, LimitedKey, Queue, TenantQueue
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "keys.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The jobs of one queue that were moved."""

    queue: TenantQueue
    admitted: int  # from blocked to ready
    displaced: int  # from ready to blocked


@dataclass(slots=True, kw_only=True)
class Rule:
    """The maximum number of jobs of each key that run at a time, with exceptions by key."""

    max_running: int
    exceptions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a rule. The jobs of its queue have not been arranged by it yet."""

    tenant: TenantId  # or ALL_TENANTS
    queue: Queue
    changed_at: datetime


async def admit(connection: Connection, keys: Sequence[LimitedKey], *, at_most: int) -> list[Admitted]:
    """Admit blocked jobs of these keys, at most ``at_most`` of each, to the free places."""
    rows = await _sql.admit.rows(
        connection, lane_ids=[lane for lane, _ in keys], keys=[key for _, key in keys], at_most=at_most
    )
    return [
        Admitted(
            queue=(TenantId(row["tenant_id"]), row["task_type"], row["model_profile"]),
            admitted=row["admitted"],
            displaced=row["displaced"],
        )
        for row in rows
    ]


async def unsettled(connection: Connection, keys: Sequence[LimitedKey]) -> bool:
    """Return whether jobs of one of these keys are still to be moved."""
    found: bool = await _sql.unsettled.value(
        connection, lane_ids=[lane for lane, _ in keys], keys=[key for _, key in keys]
    )
    return found


async def blocked_keys(connection: Connection, after: LimitedKey, *, limit: int) -> list[LimitedKey]:
    """Return keys of blocked jobs of every tenant, in order after one of them."""
    rows = await _sql.blocked_keys.rows(connection, after_lane=after[0], after_key=after[1], limit=limit)
    return [(row["lane_id"], row["concurrency_key"]) for row in rows]


async def keyed_lanes(connection: Connection, tenant: TenantId, queue: Queue) -> list[int]:
    """Return the lanes of a queue for jobs with a key, of a tenant or of ALL_TENANTS."""
    rows = await _sql.keyed_lanes.rows(connection, of_tenant=tenant, task_type=queue[0], model_profile=queue[1])
    return [row["id"] for row in rows]


async def keys_of_lane(connection: Connection, lane: int, after: str, *, limit: int) -> list[str]:
    """Return keys of ready and blocked jobs of a lane, in order after one of them."""
    rows = await _sql.keys_of_lane.rows(connection, lane_id=lane, after_key=after, limit=limit)
    return [row["concurrency_key"] for row in rows]


async def rules(connection: Connection, tenant: TenantId) -> dict[tuple[TenantId, Queue], Rule]:
    """Return the rules that concern a tenant: its own, and those of ALL_TENANTS."""
    found: dict[tuple[TenantId, Queue], Rule] = {}
    for row in await _sql.rules.rows(connection, for_tenant=tenant):
        place = (TenantId(row["tenant_id"]), (row["task_type"], row["model_profile"]))
        if row["concurrency_key"]:
            found[place].exceptions[row["concurrency_key"]] = row["max_running"]
        else:  # comes before its exceptions
            found[place] = Rule(max_running=row["max_running"])
    return found


async def set_rule(
    connection: Connection, tenant: TenantId, queue: Queue, max_running: int, exceptions: Mapping[str, int]
) -> None:
    """Replace the rule of a queue, of a tenant or of ALL_TENANTS, in the current transaction."""
    names = {"tenant_id": tenant, "task_type": queue[0], "model_profile": queue[1]}
    await _sql.set_rule.run(connection, max_running=max_running, **names)
    await _sql.drop_exceptions.run(connection, **names)
    if exceptions:
        await _sql.add_exceptions.run(connection, keys=list(exceptions), maxima=list(exceptions.values()), **names)


async def drop_rule(connection: Connection, tenant: TenantId, queue: Queue) -> None:
    """Remove the rule of a queue."""
    await _sql.drop_rule.run(connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1])


async def note_change(connection: Connection, tenant: TenantId, queue: Queue) -> Change:
    """Record, in the transaction that changes a rule, that the jobs of its queue have to be arranged by it."""
    changed_at = await _sql.note_change.value(connection, tenant_id=tenant, task_type=queue[0], model_profile=queue[1])
    return Change(tenant=tenant, queue=queue, changed_at=changed_at)


async def changes(connection: Connection, *, older: timedelta) -> list[Change]:
    """Return the changes of rules that were not finished in time."""
    rows = await _sql.changes.rows(connection, older_seconds=older.total_seconds())
    return [
        Change(
            tenant=TenantId(row["tenant_id"]),
            queue=(row["task_type"], row["model_profile"]),
            changed_at=row["changed_at"],
        )
        for row in rows
    ]


async def finish_change(connection: Connection, change: Change) -> None:
    """Remove a change once the jobs have been arranged by it."""
    await _sql.finish_change.run(
        connection,
        tenant_id=change.tenant,
        task_type=change.queue[0],
        model_profile=change.queue[1],
        changed_at=change.changed_at,
    )


async def writers(connection: Connection) -> set[str]:
    """Return the open transactions that may have written to ``ready`` or ``lease``."""
    return {row["virtualtransaction"] for row in await _sql.writers.rows(connection)}
