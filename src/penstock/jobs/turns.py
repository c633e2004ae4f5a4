"""Turns: which tenants a claim takes jobs from, in which order, and how many from each.

Tenants take turns by virtual time, as in weighted fair queueing: taking a job advances the time of its tenant by the
job's cost divided by the tenant's weight, and the tenant with the least time is next. A process remembers only tenants
that have waiting jobs, and those that had more than their share a moment ago. Any other tenant counts as having the
least time of all, and comes first. So its jobs are in the next claim, whatever the others have waiting; and a tenant
that was idle does not save up turns. Nothing is stored: a process that starts knows no tenants, and all are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace, nsmallest
from typing import Final

from penstock.tenants.principal import TenantId

_SPARE: Final = 16  # tenants that a claim turns to when others have fewer jobs than their share


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The jobs of one tenant that a claim took."""

    jobs: int
    cost: float  # of all of them
    weight: float


@dataclass(slots=True)
class Plan:
    """The turns of one claim. ``quanta`` are the maximum numbers of jobs to take, by tenant, in order; other tenants
    come first.

    Tenants whose turn is too far away have the quantum 0, which spares the claim a search for their jobs.
    """

    limit: int
    quanta: dict[TenantId, int] = field(default_factory=dict)
    charged: dict[TenantId, float] = field(default_factory=dict)  # in advance, in virtual time

    @property
    def skips(self) -> bool:
        """Whether the claim leaves out tenants that may have jobs."""
        return any(quantum == 0 for quantum in self.quanta.values())


class _Tenant:
    """A tenant as this process knows it."""

    __slots__ = ("busy", "charged", "cost", "served", "time", "weight")

    def __init__(self, time: float) -> None:
        self.time = time  # virtual, of the jobs that it has received
        self.charged = 0.0  # for the claims that run now
        self.weight = 1.0
        self.cost = 1.0  # of one of its jobs
        self.busy = True  # whether it had more jobs waiting when a claim last took some
        self.served = 0  # number of the claim that last took jobs from it; the order among equals

    @property
    def step(self) -> float:
        """The virtual time of one job."""
        return self.cost / self.weight


class Turns:
    """The turns of the claims of one kind in one process.

    Each claim is planned before it runs and settled afterwards. Claims may overlap, so a plan charges its tenants in
    advance.
    """

    def __init__(self) -> None:
        self._known: dict[TenantId, _Tenant] = {}
        self._least = 0.0  # the least time of a busy tenant; it never falls
        self._claims = 0

    def plan(self, limit: int) -> Plan:
        """Plan a claim of at most ``limit`` jobs."""
        self._forget()
        plan = Plan(limit)
        if not self._known:
            return plan
        heap = [(one.time + one.charged, one.served, tenant) for tenant, one in self._known.items()]
        heapify(heap)
        shares = self._divide(heap, limit)
        rest = nsmallest(_SPARE, ((time, served, tenant) for time, served, tenant in heap if tenant not in shares))
        # The tenant with the largest share comes last and may take what the others leave of theirs.
        filler = max((tenant for tenant in shares if self._known[tenant].busy), key=shares.__getitem__, default=None)
        plan.quanta = {tenant: share for tenant, share in shares.items() if tenant != filler}
        if filler is not None:
            plan.quanta[filler] = limit
        plan.quanta |= {tenant: limit if self._known[tenant].busy else 1 for _, _, tenant in rest}
        plan.quanta |= {tenant: 0 for _, _, tenant in heap if tenant not in plan.quanta}
        for tenant, share in shares.items():
            charge = plan.charged[tenant] = share * self._known[tenant].step
            self._known[tenant].charged += charge
        return plan

    def settle(self, plan: Plan, taken: Mapping[TenantId, Taken]) -> None:
        """Account for the jobs that a planned claim took."""
        self._release(plan)
        self._claims += 1
        for tenant, jobs in taken.items():
            one = self._known.get(tenant)
            if one is None:
                one = self._known[tenant] = _Tenant(self._least)
            one.weight, one.cost, one.served = jobs.weight, jobs.cost / jobs.jobs, self._claims
            one.time = max(one.time, self._least) + jobs.cost / jobs.weight
        self._note_busy(plan, taken)

    def abandon(self, plan: Plan) -> None:
        """Forget a planned claim that failed."""
        self._release(plan)

    def _release(self, plan: Plan) -> None:
        """Take back what a plan has charged in advance."""
        for tenant, charge in plan.charged.items():
            if tenant in self._known:
                self._known[tenant].charged -= charge
        plan.charged.clear()

    def _divide(self, heap: list[tuple[float, int, TenantId]], limit: int) -> dict[TenantId, int]:
        """Divide ``limit`` jobs among tenants: each job goes to the tenant with the least time.

        The result has tenants in the order of their first jobs. A tenant that may have no job gets at most one, and is
        then removed from ``heap``.
        """
        shares: dict[TenantId, int] = {}
        while limit > 0 and heap:
            time, served, tenant = heap[0]
            one = self._known[tenant]
            if one.busy and len(heap) == 1:
                shares[tenant] = shares.get(tenant, 0) + limit
                break
            shares[tenant] = shares.get(tenant, 0) + 1
            limit -= 1
            if one.busy:
                heapreplace(heap, (time + one.step, served, tenant))
            else:
                heappop(heap)
        return shares

    def _note_busy(self, plan: Plan, taken: Mapping[TenantId, Taken]) -> None:
        """Note which tenants have more jobs: those that gave as many as they could, and those that were not reached."""
        total = sum(jobs.jobs for jobs in taken.values())
        reached: Iterable[TenantId] = plan.quanta
        if total >= plan.limit:
            reached = _until_last(list(plan.quanta), taken)
        for tenant in reached:
            if tenant in self._known and plan.quanta[tenant]:
                given = taken[tenant].jobs if tenant in taken else 0
                self._known[tenant].busy = given >= plan.quanta[tenant]
        for tenant in taken.keys() - plan.quanta.keys():
            self._known[tenant].busy = True

    def _forget(self) -> None:
        """Forget tenants that have no jobs waiting and had no more than their share: they are equal to unknown ones."""
        busy = [one.time for one in self._known.values() if one.busy]
        if not busy:
            self._least = max((one.time for one in self._known.values()), default=self._least)
            self._known.clear()
            return
        self._least = max(self._least, min(busy))
        if len(busy) < len(self._known):
            self._known = {tenant: one for tenant, one in self._known.items() if one.busy or one.time > self._least}


def _until_last(order: Sequence[TenantId], taken: Mapping[TenantId, Taken]) -> Sequence[TenantId]:
    """Return the tenants before the last one in order that gave jobs: the claim ended with that one."""
    last = max((index for index, tenant in enumerate(order) if tenant in taken), default=0)
    return order[:last]
