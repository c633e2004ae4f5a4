"""Idempotency keys: the typed functions of ``idempotency.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from penstock.jobs.sql.rows import Connection, NewJob
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "idempotency.sql")


async def reserve(connection: Connection, tenant: TenantId, jobs: Sequence[NewJob]) -> set[UUID]:
    """Take the jobs' idempotency keys; return the jobs whose key was free."""
    rows = await _sql.reserve.rows(
        connection,
        tenant_id=tenant,
        owner_services=[job.submission.owner_service for job in jobs],
        keys=[job.submission.idempotency_key for job in jobs],
        job_ids=[job.id for job in jobs],
    )
    return {row["job_id"] for row in rows}


async def find(
    connection: Connection, tenant: TenantId, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], UUID]:
    """Return the jobs that hold (owner, key) pairs."""
    rows = await _sql.find.rows(
        connection, tenant_id=tenant, owner_services=[owner for owner, _ in keys], keys=[key for _, key in keys]
    )
    return {(row["owner_service"], row["key"]): row["job_id"] for row in rows}


async def release(connection: Connection, tenant: TenantId, owner_service: str, key: str, job_id: UUID) -> None:
    """Free a key whose job retention has dropped."""
    await _sql.release.run(connection, tenant_id=tenant, owner_service=owner_service, key=key, job_id=job_id)
