"""The stored histories of runs: their turns, steps and mail; typed functions of ``queries.sql``.

Every function takes the connection and the tenant first. None opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from penstock.flows.kernel.records import Mail, MailKind, Status, StepKind, StoredStep, StoredTurn, Target
from penstock.flows.sql.faults import fault_of
from penstock.jobs.sql.rows import Connection
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__)


async def turns(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, list[StoredTurn]]:
    """Return the stored turns of runs, in order."""
    found: dict[UUID, list[StoredTurn]] = {run_id: [] for run_id in run_ids}
    for row in await _sql.turns.rows(connection, tenant_id=tenant, run_ids=list(run_ids)):
        found[row["run_id"]].append(
            StoredTurn(
                number=row["number"],
                at=row["at"],
                taken=row["taken"],
                first_no=row["first_no"],
                patched=row["patched"] or [],
            )
        )
    return found


async def steps(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, list[StoredStep]]:
    """Return the stored steps of runs, in order."""
    found: dict[UUID, list[StoredStep]] = {run_id: [] for run_id in run_ids}
    for row in await _sql.steps.rows(connection, tenant_id=tenant, run_ids=list(run_ids)):
        found[row["run_id"]].append(_step(row))
    return found


def _step(row: asyncpg.Record) -> StoredStep:
    """Return a step as the history has it."""
    return StoredStep(
        no=row["no"],
        key=row["key"],
        kind=StepKind(row["kind"]),
        name=row["name"],
        input_hash=row["input_hash"],
        target=None if row["target"] is None else msgspec.json.decode(row["target"], type=Target),
    )


async def mail(connection: Connection, tenant: TenantId, afters: Sequence[tuple[UUID, int]]) -> dict[UUID, list[Mail]]:
    """Return the mail of runs (run, id) after an id, in order."""
    found: dict[UUID, list[Mail]] = {run_id: [] for run_id, _ in afters}
    rows = await _sql.mail.rows(
        connection, tenant_id=tenant, run_ids=[run for run, _ in afters], afters=[after for _, after in afters]
    )
    for row in rows:
        found[row["run_id"]].append(_mail(row))
    return found


def _mail(row: asyncpg.Record) -> Mail:
    return Mail(
        id=row["id"],
        kind=MailKind(row["kind"]),
        at=row["at"],
        no=row["no"],
        name=row["name"],
        status=None if row["status"] is None else Status(row["status"]),
        value=row["value"],
        fault=None if row["category"] is None else fault_of(row["category"], row["message"] or ""),
    )
