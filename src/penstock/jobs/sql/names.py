"""The short ids of series, lanes and submitters: the typed functions of ``names.sql``.

See ``store`` for the conventions.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.jobs.sql.rows import Connection, Lane
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__, "names.sql")


async def resolve_series(
    connection: Connection, tenant: TenantId, wanted: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], int]:
    """Return the ids of (owner, task type, model profile) triples, and create those that are missing."""
    found: dict[tuple[str, str, str], int] = {}
    while missing := sorted(set(wanted) - found.keys()):
        owners, tasks, profiles = zip(*missing, strict=True)
        rows = await _sql.resolve_series.rows(
            connection, tenant_id=tenant, owner_services=owners, task_types=tasks, model_profiles=profiles
        )
        found |= {(row["owner_service"], row["task_type"], row["model_profile"]): row["id"] for row in rows}
    return found


async def resolve_submitters(
    connection: Connection, tenant: TenantId, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Return the ids of (key, user) pairs, and create those that are missing."""
    found: dict[tuple[str, str], int] = {}
    while missing := sorted(set(wanted) - found.keys()):
        keys, users = zip(*missing, strict=True)
        rows = await _sql.resolve_submitters.rows(connection, tenant_id=tenant, key_ids=keys, user_ids=users)
        found |= {(row["key_id"], row["user_id"]): row["id"] for row in rows}
    return found


async def resolve_lanes(connection: Connection, tenant: TenantId, wanted: Sequence[Lane]) -> dict[Lane, int]:
    """Return the ids of lanes, and create those that are missing."""
    found: dict[Lane, int] = {}
    while missing := sorted(set(wanted) - found.keys()):
        tasks, profiles, priorities, keyed = zip(*missing, strict=True)
        rows = await _sql.resolve_lanes.rows(
            connection,
            tenant_id=tenant,
            task_types=tasks,
            model_profiles=profiles,
            priorities=priorities,
            keyed=keyed,
        )
        found |= {(row["task_type"], row["model_profile"], row["priority"], row["keyed"]): row["id"] for row in rows}
    return found


async def describe_series(
    connection: Connection, tenant: TenantId, ids: Sequence[int]
) -> dict[int, tuple[str, str, str]]:
    """Return the owner, task type and model profile of series."""
    rows = await _sql.describe_series.rows(connection, tenant_id=tenant, ids=list(ids))
    return {row["id"]: (row["owner_service"], row["task_type"], row["model_profile"]) for row in rows}


async def describe_claimed(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[str, str, str, str]]:
    """Return the tenant's name, the owner, the task type and the model profile of series."""
    rows = await _sql.describe_claimed.rows(connection, ids=list(ids))
    return {row["id"]: (row["tenant"], row["owner_service"], row["task_type"], row["model_profile"]) for row in rows}
