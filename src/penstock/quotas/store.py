"""The tables of quotas. Every function takes the connection first; ``expire`` opens a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from penstock.postgres import queries
from penstock.quotas.quota import TOKENS, Quota, QuotaSetting, scale_of
from penstock.quotas.rules import Rule
from penstock.quotas.slice import Grant, Report, Slice
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__)


class CountedJob(NamedTuple):
    """The key of a row of a job that a quota counts."""

    tenant_id: int = 0
    quota_id: UUID = UUID(int=0)
    subject: str = ""
    job_id: UUID = UUID(int=0)
    turn: int = 0


async def sync(connection: asyncpg.Connection, reports: Sequence[tuple[Slice, Report]]) -> dict[UUID, Grant]:
    """Synchronise slices; returns the grants by slice id, except for slices whose quota was deleted."""
    rows = await _sql.sync.rows(
        connection,
        tenants=[one.rule.tenant for one, _ in reports],
        quotas=[one.rule.id for one, _ in reports],
        subjects=[one.subject for one, _ in reports],
        windows=[one.window_start for one, _ in reports],
        ids=[one.id for one, _ in reports],
        useds=[report.used for _, report in reports],
        ackeds=[report.acknowledged for _, report in reports],
        reserveds=[report.reserved for _, report in reports],
        floors=[report.floor for _, report in reports],
        leasts=[report.least for _, report in reports],
        bests=[report.best for _, report in reports],
    )
    return {
        reports[row["place"] - 1][0].id: Grant(
            window_start=row["window_start"],
            ends_in=row["ends_in"],
            granted=row["granted"],
            settled=row["used_by_all"],
            most=row["most"],
            others=row["others"],
            spare=row["spare"],
            resets_in=row["resets_in"],
        )
        for row in rows
    }


async def changed_tenants(connection: asyncpg.Connection, after: int) -> list[TenantId]:
    return [TenantId(row["id"]) for row in await _sql.changed_tenants.rows(connection, after=after)]


async def rules(connection: asyncpg.Connection) -> list[Rule]:
    """Return the quotas of all tenants."""
    return [_rule(row) for row in await _sql.rules.rows(connection)]


async def rules_of(connection: asyncpg.Connection, tenants: Sequence[TenantId]) -> list[Rule]:
    return [_rule(row) for row in await _sql.rules_of.rows(connection, tenant_ids=tenants)]


async def stamp(connection: asyncpg.Connection, tenant: TenantId, generation: int) -> None:
    """Mark a tenant as changed."""
    await _sql.stamp.run(connection, tenant_id=tenant, generation=generation)


async def put(connection: asyncpg.Connection, tenant: TenantId, setting: QuotaSetting) -> UUID:
    """Set a quota; returns its id."""
    quota_id: UUID = await _sql.put.value(
        connection,
        tenant_id=tenant,
        key_id=setting.key or "",
        user_id=setting.user or "",
        measure=setting.measure,
        per=setting.per or "",
        most=setting.limit * scale_of(setting.measure),
        on_crash=setting.crash,
        strict=setting.strict,
    )
    return quota_id


async def remove(connection: asyncpg.Connection, tenant: TenantId, quota_id: UUID) -> None:
    await _sql.remove.value(connection, tenant_id=tenant, id=quota_id)


async def has_key(connection: asyncpg.Connection, tenant: TenantId, key_id: str) -> bool:
    found: bool = await _sql.has_key.value(connection, tenant_id=tenant, key_id=key_id)
    return found


async def number_of(connection: asyncpg.Connection, tenant: TenantId) -> int:
    number: int = await _sql.number_of.value(connection, tenant_id=tenant)
    return number


async def quotas(
    connection: asyncpg.Connection, tenant: TenantId, *, quota_id: UUID | None = None, user: str | None = None
) -> list[Quota]:
    """Return the quotas of a tenant, or one of them, with their use; for quotas of every user, the use of ``user``."""
    rows = await _sql.quotas.rows(connection, tenant_id=tenant, id=quota_id, user_id=user)
    return [_quota(row) for row in rows]


async def count_jobs(connection: asyncpg.Connection, tenant: TenantId, job_ids: Sequence[UUID]) -> None:
    """Store jobs, in the transaction that made them pending, for the quotas that count those of their key or user."""
    await _sql.count_jobs.run(connection, tenant_id=tenant, job_ids=job_ids)


async def sweep_jobs(connection: asyncpg.Connection, after: CountedJob, *, limit: int) -> CountedJob | None:
    """Remove finished jobs from the next rows that quotas count; returns the last row checked, or None at the end."""
    row = await _sql.sweep_jobs.row(
        connection,
        after_tenant=after.tenant_id,
        after_quota=after.quota_id,
        after_subject=after.subject,
        after_job=after.job_id,
        after_turn=after.turn,
        limit=limit,
    )
    return None if row is None else CountedJob(**row)


async def expire(connection: asyncpg.Connection, *, limit: int) -> int:
    """End slices that have expired; returns the number of windows."""
    async with connection.transaction():
        rows = await _sql.expired.rows(connection, limit=limit)
        for row in rows:
            await _sql.expire.run(connection, **dict(row))
    return len(rows)


async def forget(connection: asyncpg.Connection, *, limit: int) -> int:
    """Remove old windows; returns how many."""
    number: int = await _sql.forget.value(connection, limit=limit)
    return number


def _rule(row: asyncpg.Record) -> Rule:
    return Rule(
        tenant=TenantId(row["tenant_id"]),
        id=row["id"],
        measure=row["measure"],
        per=row["per"],
        most=row["most"],
        key=row["key_id"],
        user=row["user_id"],
        strict=row["strict"],
    )


def _quota(row: asyncpg.Record) -> Quota:
    scale = scale_of(row["measure"])
    used = None if row["used"] is None else row["used"] // scale
    return Quota(
        id=row["id"],
        measure=row["measure"],
        limit=row["most"] // scale,
        on_crash=row["on_crash"],
        per=row["per"] or None,
        key=row["key_id"] or None,
        user=row["user_id"] or None,
        mode=("strict" if row["strict"] else "soft") if row["measure"] == TOKENS else None,
        used=used,
        reserved=None if used is None else row["held"] or 0,
        unaccounted=row["unaccounted"] or 0,
        resets_at=row["ends_at"],
    )
