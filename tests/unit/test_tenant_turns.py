"""Waiting live calls of several tenants."""

from __future__ import annotations

import pytest

from penstock.models.host.calls import LiveCall
from penstock.models.host.tenant_turns import TenantTurns
from penstock.tenants.principal import TenantId


def call(tenant: int, number: int) -> LiveCall:
    return LiveCall(b"{}", request_id=f"{tenant}.{number}", tenant=TenantId(tenant))


def drained(turns: TenantTurns) -> list[str]:
    found = []
    while turns:
        first = turns.first()
        assert turns.pop() is first
        found.append(first.request_id)
    return found


async def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    turns = TenantTurns()
    for tenant, number in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1)):
        turns.append(call(tenant, number))
    assert [one.request_id for one in turns] == ["1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "3.1"]
    assert drained(turns) == ["1.1", "2.1", "3.1", "1.2", "2.2", "1.3", "1.4"]


async def test_a_newcomer_waits_for_one_round_at_most() -> None:
    turns = TenantTurns()
    for number in range(100):
        turns.append(call(1, number))
    assert [turns.pop().request_id for _ in range(3)] == ["1.0", "1.1", "1.2"]
    turns.append(call(2, 0))
    assert [turns.pop().request_id for _ in range(2)] == ["1.3", "2.0"]


async def test_calls_that_were_put_back_come_first_in_order() -> None:
    turns = TenantTurns()
    for number in range(2):
        turns.append(call(1, number))
    back = [turns.pop(), turns.pop()]
    turns.append(call(2, 0))
    for one in reversed(back):
        turns.put_back(one)
    assert drained(turns) == ["1.0", "1.1", "2.0"]


async def test_a_call_is_removed_wherever_it_waits() -> None:
    turns = TenantTurns()
    waiting = [call(1, 0), call(1, 1), call(2, 0), call(3, 0)]
    for one in waiting:
        turns.append(one)
    turns.put_back(turns.pop())
    turns.remove(waiting[0])
    turns.remove(waiting[2])
    assert len(turns) == 2
    assert not turns.has(TenantId(2))
    with pytest.raises(ValueError):  # noqa: PT011 - any message
        turns.remove(waiting[2])
    assert drained(turns) == ["3.0", "1.1"]
