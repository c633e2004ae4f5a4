"""Rules for concurrency keys, and the jobs that they concern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.access.audit import Sender
from penstock.jobs.key_rules import KeyRule, KeyRuleChange
from penstock.postgres.pool import Database
from penstock.tenants.principal import OPERATOR
from tests.support.databases import query
from tests.support.jobs import JobCaller
from tests.support.waiting import within


async def limit(
    caller: JobCaller,
    max_running: int | None,
    exceptions: Mapping[str, int] | None = None,
    *,
    task_type: str = "echo",
    model_profile: str = "small",
    all_tenants: bool = False,
) -> None:
    """Set or remove the rule of a queue of the caller's tenant."""
    rule = None if max_running is None else KeyRule(max_running=max_running, exceptions=dict(exceptions or {}))
    change = KeyRuleChange(task_type=task_type, model_profile=model_profile, rule=rule, all_tenants=all_tenants)
    sender = Sender(principal=replace(OPERATOR, tenant=caller.tenant), address="127.0.0.1")
    await caller.service.key_rules.set(sender, change)


async def settled(*callers: JobCaller) -> None:
    """Wait until the callers' processes have done all admissions."""
    for caller in callers:
        await within(caller.service._shared.admissions.drain())


async def places(database: Database) -> int:
    """Return how many jobs hold a place."""
    ((count,),) = await query(
        database,
        "SELECT (SELECT count(*) FROM ready WHERE concurrency_key IS NOT NULL)"
        " + (SELECT count(*) FROM lease WHERE concurrency_key IS NOT NULL)",
    )
    return int(count)


async def blocked(database: Database) -> int:
    """Return how many jobs wait for a place."""
    ((count,),) = await query(database, "SELECT count(*) FROM later WHERE run_at IS NULL")
    return int(count)
