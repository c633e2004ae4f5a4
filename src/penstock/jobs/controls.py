"""Pause and resume queues and tenants, and limit how many jobs of a tenant run at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from penstock.access import store as access_store
from penstock.access.audit import Action, Sender, change
from penstock.errors import InvalidInput, NotFound
from penstock.jobs.announcements import READY, announce, any_queue
from penstock.jobs.counts import Stats
from penstock.jobs.fields import Name
from penstock.jobs.key_rules import KeyRule
from penstock.jobs.shared import Shared
from penstock.jobs.sql import controls, keys
from penstock.jobs.sql.controls import ALL_QUEUES, ALL_TENANTS
from penstock.jobs.sql.rows import Connection, Queue
from penstock.tenants.principal import TenantId

MaxRunning = Annotated[int, Meta(ge=1, le=1_000_000, description="The maximum number of jobs that run at a time.")]
Weight = Annotated[float, Meta(ge=0.001, le=1000, description="The tenant's share of the workers, relative to others.")]
_MANY = 1_000_000  # more than the claims that wait in any process


class QueueSelection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Selects one queue or, without names, all queues of the sender's tenant or (operators only) of all tenants."""

    task_type: Name | None = None
    model_profile: Name | None = None
    all_tenants: bool = False

    def queue(self) -> Queue:
        """Return the queue, or ALL_QUEUES; raises InvalidInput for half a name."""
        if self.task_type is None and self.model_profile is None:
            return ALL_QUEUES
        if self.task_type is None:
            raise InvalidInput.of("task_type", "is needed together with model_profile")
        if self.model_profile is None:
            raise InvalidInput.of("model_profile", "is needed together with task_type")
        return (self.task_type, self.model_profile)


class QueueState(Struct, frozen=True, kw_only=True):
    """One queue of a tenant."""

    task_type: str
    model_profile: str
    pending: int
    running: int
    paused: bool  # the queue itself, all queues of the tenant, or the queue of all tenants
    paused_at: datetime | None = None
    max_running: int | None = None  # None: no limit of its own
    key_rule: KeyRule | None = None  # the tenant's own rule for concurrency keys
    shared_key_limit: int | None = (
        None  # the maximum number of jobs of a key by the rule for every tenant, without exceptions
    )


class QueueList(Struct, frozen=True, kw_only=True):
    """The queues of a tenant. ``paused_at`` and ``max_running`` concern all of them together."""

    queues: list[QueueState]
    paused_at: datetime | None = None
    max_running: int | None = None


class QueueLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limit of one queue."""

    task_type: Name
    model_profile: Name
    max_running: MaxRunning


class TenantLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant's share of the workers, and limits of its running jobs: in all its queues together, and by queue."""

    weight: Weight = 1.0
    max_running: MaxRunning | None = None
    queues: Annotated[list[QueueLimit], Meta(max_length=1000)] = []

    def by_queue(self) -> dict[Queue, int]:
        """Return the limits by queue; raises InvalidInput if a queue occurs twice."""
        limits = {} if self.max_running is None else {ALL_QUEUES: self.max_running}
        for index, one in enumerate(self.queues):
            queue = (one.task_type, one.model_profile)
            if queue in limits:
                raise InvalidInput.of(f"queues[{index}]", "this queue occurs twice")
            limits[queue] = one.max_running
        return limits


class Controls:
    """The changes that operators and tenants make to queues. Each is one transaction, with its row in the audit log.

    Every claim reads pauses and limits as they are, so a change concerns all claims that begin after it.
    """

    def __init__(self, shared: Shared, stats_of: Callable[[TenantId], Awaitable[Stats]]) -> None:
        self._shared = shared
        self._stats_of = stats_of

    async def queues(self, tenant: TenantId) -> QueueList:
        """Return the queues in which a tenant ever had jobs, and those that are paused or limited."""
        stats = await self._stats_of(tenant)
        async with self._shared.database.acquire() as connection:
            known = await controls.queues(connection, tenant)
            paused = await controls.pauses(connection, tenant)
            limits = await controls.run_limits(connection, tenant)
            rules = await keys.rules(connection, tenant)
        counts = {(one.task_type, one.model_profile): one for one in stats.queues}
        own = {queue: at for (_, queue), at in paused.items() if queue != ALL_QUEUES}
        whole = min((at for (_, queue), at in paused.items() if queue == ALL_QUEUES), default=None)
        states = []
        own_rules = {queue: rule for (of, queue), rule in rules.items() if of == tenant}
        for queue in sorted({*known, *own, *own_rules, *(limits.keys() - {ALL_QUEUES})}):
            at, found = own.get(queue, whole), counts.get(queue)
            rule, shared_rule = own_rules.get(queue), rules.get((ALL_TENANTS, queue))
            states.append(
                QueueState(
                    task_type=queue[0],
                    model_profile=queue[1],
                    pending=found.pending if found else 0,
                    running=found.running if found else 0,
                    paused=at is not None,
                    paused_at=at,
                    max_running=limits.get(queue),
                    key_rule=KeyRule(max_running=rule.max_running, exceptions=rule.exceptions) if rule else None,
                    shared_key_limit=shared_rule.max_running if shared_rule else None,
                )
            )
        return QueueList(queues=states, paused_at=whole, max_running=limits.get(ALL_QUEUES))

    async def pause(self, sender: Sender, selected: QueueSelection) -> None:
        """Let no worker take jobs of a queue. Running jobs continue, and submits are accepted."""
        queue = selected.queue()
        async with self._shared.database.acquire() as connection, connection.transaction():
            await controls.pause(connection, _tenant_of(sender, selected), queue)
            await _record(connection, sender.principal.tenant, sender, _action("queue.pause", selected))

    async def resume(self, sender: Sender, selected: QueueSelection) -> None:
        """Let workers take the jobs again. Raises NotFound if there is no such pause."""
        queue, tenant = selected.queue(), _tenant_of(sender, selected)
        async with self._shared.database.acquire() as connection, connection.transaction():
            if await controls.resume(connection, tenant, queue) is None:
                raise NotFound(f"{_subject(selected)} is not paused by itself")
            await _record(connection, sender.principal.tenant, sender, _action("queue.resume", selected))
        if tenant == ALL_TENANTS:
            self._shared.wakeups.announce(READY)
        else:
            self._wake(tenant)

    async def limits(self, name: str) -> TenantLimits:
        """Return the limits of a tenant; raises NotFound."""
        async with self._shared.database.acquire() as connection, connection.transaction():
            tenant = await _find(connection, name)
            return await _limits_of(connection, tenant, await controls.lock_tenant(connection, tenant))

    async def set_limits(self, sender: Sender, name: str, wanted: TenantLimits) -> TenantLimits:
        """Replace the limits of a tenant; raises NotFound. Running jobs above a new limit continue."""
        by_queue = wanted.by_queue()
        async with self._shared.database.acquire() as connection, connection.transaction():
            tenant = await _find(connection, name)
            before = await _limits_of(connection, tenant, await controls.lock_tenant(connection, tenant))
            await controls.set_limits(connection, tenant, weight=wanted.weight, max_running=by_queue)
            await _record(
                connection, tenant, sender, change("tenant.limits", name, _described(before), _described(wanted))
            )
        self._wake(tenant)
        return wanted

    def _wake(self, tenant: TenantId) -> None:
        """Wake the claims that may take jobs of a tenant now."""
        announce(self._shared.wakeups, ready=Counter({any_queue(tenant): _MANY}))


def _tenant_of(sender: Sender, selected: QueueSelection) -> TenantId:
    return ALL_TENANTS if selected.all_tenants else sender.principal.tenant


def _subject(selected: QueueSelection) -> str:
    queue = f"the queue {selected.task_type}/{selected.model_profile}" if selected.task_type else "the tenant"
    return f"{queue} of all tenants" if selected.all_tenants else queue


def _action(name: str, selected: QueueSelection) -> Action:
    subject = f"{selected.task_type}/{selected.model_profile}" if selected.task_type else "all queues"
    return Action(name=name, subject=subject, after={"all_tenants": selected.all_tenants})


async def _record(connection: Connection, tenant: TenantId, sender: Sender, action: Action) -> None:
    await access_store.record(connection, tenant, sender.principal, sender.address, action)


async def _find(connection: Connection, name: str) -> TenantId:
    found = await access_store.tenant(connection, name)
    if found is None:
        raise NotFound(f"there is no tenant {name[:100]}")
    return found[0]


async def _limits_of(connection: Connection, tenant: TenantId, weight: float) -> TenantLimits:
    limits = await controls.run_limits(connection, tenant)
    queues = [
        QueueLimit(task_type=task_type, model_profile=model_profile, max_running=most)
        for (task_type, model_profile), most in limits.items()
        if (task_type, model_profile) != ALL_QUEUES
    ]
    return TenantLimits(weight=weight, max_running=limits.get(ALL_QUEUES), queues=queues)


def _described(limits: TenantLimits) -> dict[str, object]:
    """Return the fields of limits as the audit log records them."""
    queues = {f"{one.task_type}/{one.model_profile}": one.max_running for one in limits.queues}
    return {"weight": limits.weight, "max_running": limits.max_running, "queues": queues}
