"""Rules for concurrency keys: how many jobs of a queue with the same key run at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from penstock.access import store as access_store
from penstock.access.audit import Action, Sender
from penstock.jobs.admissions import admit
from penstock.jobs.fields import ModelProfile, Name, TaskType
from penstock.jobs.sql import keys as statements
from penstock.jobs.sql.controls import ALL_TENANTS
from penstock.jobs.sql.keys import Change, Rule
from penstock.jobs.sql.rows import Connection, LimitedKey, Queue
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.tenants.principal import TenantId

MaxPerKey = Annotated[
    int, Meta(ge=1, le=1_000_000, description="The maximum number of jobs with the same key that run at a time.")
]
_PAGE: Final = 100  # keys that are arranged in one step
_PAUSE_SECONDS: Final = 0.01  # between polls of the transactions that are in progress


class KeyRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number of jobs of each concurrency key that may run at a time, with exceptions for some keys."""

    max_running: MaxPerKey
    exceptions: Annotated[dict[Name, MaxPerKey], Meta(max_length=1000)] = {}


class KeyRuleChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule for one queue of the sender's tenant; for an operator, for the queue of this name of every tenant."""

    task_type: TaskType
    model_profile: ModelProfile
    rule: KeyRule | None  # None: no rule
    all_tenants: bool = False

    @property
    def queue(self) -> Queue:
        return (self.task_type, self.model_profile)


class KeyRules:
    """Changes the rules. Each change is one transaction, with its row in the audit log."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups

    async def set(self, sender: Sender, wanted: KeyRuleChange) -> None:
        """Set or remove a rule; return once it holds, that is, no more jobs of a key begin than it allows.

        Running jobs above the new number continue.
        """
        tenant = ALL_TENANTS if wanted.all_tenants else sender.principal.tenant
        async with self._database.acquire() as connection:
            async with connection.transaction():
                noted = await statements.note_change(connection, tenant, wanted.queue)
                before = (await statements.rules(connection, tenant)).get((tenant, wanted.queue))
                if wanted.rule is None:
                    await statements.drop_rule(connection, tenant, wanted.queue)
                else:
                    rule = wanted.rule
                    await statements.set_rule(connection, tenant, wanted.queue, rule.max_running, rule.exceptions)
                action = Action(
                    name="queue.limit",
                    subject="/".join(wanted.queue),
                    before=_described(before),
                    after={**_described(wanted.rule), "all_tenants": wanted.all_tenants},
                )
                await access_store.record(connection, sender.principal.tenant, sender.principal, sender.address, action)
            await arrange(connection, self._wakeups, noted)


async def arrange(connection: Connection, wakeups: Wakeups | None, change: Change) -> None:
    """Move the jobs of a queue between ready and blocked as its changed rule requires.

    Statements that began before the change was committed do not know the rule, so first wait for those in progress.
    """
    earlier = await statements.writers(connection)
    while earlier:
        await asyncio.sleep(_PAUSE_SECONDS)
        earlier &= await statements.writers(connection)
    for lane in await statements.keyed_lanes(connection, change.tenant, change.queue):
        after = ""
        while keys := await statements.keys_of_lane(connection, lane, after, limit=_PAGE):
            await _settle(connection, wakeups, [(lane, key) for key in keys])
            after = keys[-1]
    await statements.finish_change(connection, change)


async def _settle(connection: Connection, wakeups: Wakeups | None, keys: list[LimitedKey]) -> None:
    """Admit and displace jobs of these keys until all are where they should be."""
    while True:
        moved = await admit(connection, wakeups, keys)
        if not await statements.unsettled(connection, keys):
            return
        if not moved:  # claims or cancels in progress hold the rows
            await asyncio.sleep(_PAUSE_SECONDS)


def applied(rules: Mapping[tuple[TenantId, Queue], Rule], tenant: TenantId, queue: Queue, key: str) -> int | None:
    """Return how many jobs of a key may run at a time in a queue of a tenant; None: no rule."""
    found = [rules[one, queue] for one in (ALL_TENANTS, tenant) if (one, queue) in rules]
    return min((rule.exceptions.get(key, rule.max_running) for rule in found), default=None)


def _described(rule: KeyRule | Rule | None) -> dict[str, object]:
    """Return the fields of a rule as the audit log records them."""
    if rule is None:
        return {"max_running": None, "exceptions": {}}
    return {"max_running": rule.max_running, "exceptions": dict(rule.exceptions)}
