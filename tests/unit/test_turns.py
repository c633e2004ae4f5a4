"""The turns of tenants: shares by weight, newcomers, tenants that submit one job at a time, and claims that overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.jobs.turns import Plan, Taken, Turns
from penstock.tenants.principal import TenantId


def tenant(number: int) -> TenantId:
    return TenantId(number)


class Backlog:
    """The waiting jobs of each tenant, taken as the claim statement takes them."""

    def __init__(self, jobs: Mapping[int, int], weights: Mapping[int, float] | None = None) -> None:
        self.jobs = Counter({tenant(number): count for number, count in jobs.items()})
        self.weights = weights or {}
        self.got: Counter[TenantId] = Counter()
        self.turns = Turns()

    def take(self, plan: Plan) -> dict[TenantId, Taken]:
        """Take jobs by a plan: first from tenants that it does not name."""
        waiting = [one for one, count in sorted(self.jobs.items()) if count > 0]
        offered = [one for one in waiting if plan.quanta.get(one) != 0]
        order = [one for one in offered if one not in plan.quanta] + [one for one in plan.quanta if one in offered]
        left, taken = plan.limit, {}
        for one in order:
            share = plan.quanta.get(one, ceil(plan.limit / len(offered)))
            count = min(share, self.jobs[one], left)
            if count:
                left -= count
                self.jobs[one] -= count
                self.got[one] += count
                taken[one] = Taken(jobs=count, cost=count, weight=self.weights.get(one, 1.0))
        return taken

    def claim(self, limit: int) -> Counter[TenantId]:
        """Plan, take and settle, until there are jobs; return how many of each tenant were taken."""
        taken: dict[TenantId, Taken] = {}
        again = True
        while not taken and again:
            plan = self.turns.plan(limit)
            taken = self.take(plan)
            self.turns.settle(plan, taken)
            again = plan.skips
        return Counter({one: jobs.jobs for one, jobs in taken.items()})


@pytest.mark.parametrize("limit", [1, 7, 32])
def test_backlogged_tenants_share_by_weight(limit: int) -> None:
    backlog = Backlog({1: 10_000, 2: 10_000, 3: 10_000}, {1: 1.0, 2: 3.0, 3: 0.5})
    while sum(backlog.got.values()) < 4500:
        backlog.claim(limit)
    total = sum(backlog.got.values())
    for number, share in ((1, 1 / 4.5), (2, 3 / 4.5), (3, 0.5 / 4.5)):
        assert backlog.got[tenant(number)] / total == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("limit", [1, 8, 32])
def test_the_jobs_of_newcomers_are_in_the_next_claims(limit: int) -> None:
    backlog = Backlog({1: 1_000_000, 2: 1_000_000})
    for _ in range(50):
        backlog.claim(limit)
    newcomers = {tenant(number) for number in range(10, 10 + limit)}
    backlog.jobs.update(dict.fromkeys(newcomers, 1))
    assert backlog.claim(limit).keys() == newcomers, "as many as the claim takes"


def test_a_tenant_that_submits_one_job_at_a_time_has_no_more_than_its_share() -> None:
    backlog = Backlog({1: 1_000_000})
    for _ in range(400):
        if not backlog.jobs[tenant(2)]:
            backlog.jobs[tenant(2)] = 1  # again as soon as its job is taken
        backlog.claim(1)
    assert backlog.got[tenant(2)] == pytest.approx(200, abs=2)


def test_a_tenant_that_was_idle_does_not_save_up_turns() -> None:
    backlog = Backlog({1: 1_000_000})
    for _ in range(1000):
        backlog.claim(32)
    backlog.jobs[tenant(2)] = 1_000_000
    backlog.got.clear()
    for _ in range(100):
        backlog.claim(32)
    assert backlog.got[tenant(2)] == pytest.approx(1600, rel=0.03)


def test_a_single_tenant_gets_whole_claims() -> None:
    backlog = Backlog({1: 1000})
    assert [backlog.claim(100)[tenant(1)] for _ in range(10)] == [100] * 10
    assert backlog.claim(100) == {}


def test_a_claim_is_filled_although_a_tenant_has_fewer_jobs_than_its_share() -> None:
    backlog = Backlog({1: 1_000_000, 2: 40})
    assert [sum(backlog.claim(32).values()) for _ in range(6)] == [32] * 6
    assert backlog.jobs[tenant(2)] == 0


def test_claims_that_overlap_divide_the_turns_between_them() -> None:
    backlog = Backlog({1: 1_000_000, 2: 1_000_000, 3: 1_000_000})
    for _ in range(6):
        backlog.claim(1)
    backlog.got.clear()
    for _ in range(10):
        plans = [backlog.turns.plan(1) for _ in range(6)]
        for plan in plans:
            backlog.turns.settle(plan, backlog.take(plan))
    assert all(abs(jobs - 20) <= 1 for jobs in backlog.got.values())


def test_a_claim_that_failed_costs_no_turn() -> None:
    backlog = Backlog({1: 1000, 2: 1000})
    for _ in range(4):
        backlog.claim(1)
    for _ in range(100):
        backlog.turns.abandon(backlog.turns.plan(1))
    backlog.got.clear()
    for _ in range(10):
        backlog.claim(1)
    assert set(backlog.got.values()) == {5}


def test_idle_tenants_are_forgotten() -> None:
    backlog = Backlog(dict.fromkeys(range(1, 500), 1) | {1000: 1_000_000})
    for _ in range(1000):
        backlog.claim(32)
    assert list(backlog.turns._known) == [1000]


@settings(max_examples=150)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=12),
    limit=st.integers(1, 40),
    warm=st.integers(0, 40),
)
def test_a_backlogged_tenant_never_waits_longer_than_the_bound(weights: list[float], limit: int, warm: int) -> None:
    numbers = range(1, len(weights) + 1)
    backlog = Backlog(dict.fromkeys(numbers, 10**9), dict(zip(numbers, weights, strict=True)))
    for _ in range(warm + 2 * len(weights)):
        backlog.claim(limit)
    waited: Counter[TenantId] = Counter()
    for _ in range(60):
        got = backlog.claim(limit)
        for number, weight in zip(numbers, weights, strict=True):
            waited[tenant(number)] = 0 if got[tenant(number)] else waited[tenant(number)] + 1
            bound = ceil(sum(weights) / (weight * limit)) + ceil(len(weights) / limit)
            assert waited[tenant(number)] <= bound, "a round of all tenants by weight"


def test_claims_find_the_only_tenant_with_jobs_among_many_that_had_some() -> None:
    backlog = Backlog(dict.fromkeys(range(1, 500), 1) | {1000: 100_000})
    for _ in range(40):
        assert backlog.claim(32).total() > 0
    assert backlog.jobs.total() == backlog.jobs[tenant(1000)]
