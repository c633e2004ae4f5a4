"""Slices of several processes, with clocks that jump, processes that die, and statements whose outcome is unknown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import DatabaseUnavailable
from penstock.postgres.embedded import EmbeddedServer, socket_folder
from penstock.postgres.pool import Database
from penstock.quotas import store
from penstock.quotas.quota import Quota, QuotaSetting
from penstock.quotas.rules import Rule
from penstock.quotas.slice import Slice
from penstock.quotas.slices import NothingLeft, Slices
from penstock.tenants.principal import TenantId
from tests.support.clocks import Clock
from tests.support.database_proxy import DatabaseProxy, database_over
from tests.support.databases import execute, query
from tests.support.waiting import within

MINUTE = timedelta(minutes=1)


class Shares:
    """The quotas of one tenant, and processes that take from them."""

    def __init__(self, database: Database, owner: TenantId) -> None:
        self.database = database
        self.owner = owner

    async def quota(self, most: int, measure: Any = "jobs", per: Any = "day", **fields: Any) -> Rule:
        setting = QuotaSetting(measure=measure, per=per, limit=most, **fields)
        async with self.database.acquire() as connection:
            quota_id = await store.put(connection, self.owner, setting)
            rules = await store.rules_of(connection, [self.owner])
        return next(rule for rule in rules if rule.id == quota_id)

    def process(self) -> Slices:
        """Return the slices of a process that never syncs by itself."""
        return Slices(self.database)

    async def standing(self, rule: Rule) -> Quota:
        async with self.database.acquire() as connection:
            (found,) = await store.quotas(connection, self.owner, quota_id=rule.id)
        return found

    async def used(self, rule: Rule) -> tuple[int | None, int | None, int]:
        found = await self.standing(rule)
        return found.used, found.reserved, found.unaccounted

    async def expire(self) -> None:
        """Run the housekeeper's duty."""
        async with self.database.acquire() as connection:
            await store.expire(connection, limit=1000)


@pytest.fixture
def shares(database: Database, owner: TenantId) -> Shares:
    return Shares(database, owner)


async def use(process: Slices, *rules: Rule, amount: int = 1) -> list[Slice]:
    """Take an amount of each quota and count it as used."""
    taken = await process.take({(rule, ""): amount for rule in rules})
    for one, reserved in taken:
        one.settle(reserved)
    return [one for one, _ in taken]


async def usable(process: Slices, rule: Rule, *, at_most: int = 1000) -> int:
    """Use one after the other until the quota refuses; return how many."""
    for count in range(at_most):
        try:
            await use(process, rule)
        except NothingLeft:
            return count
    return at_most


# Windows


@pytest.fixture
async def berlin(database: Database, owner: TenantId) -> str:
    await execute(database, "UPDATE tenant SET time_zone = 'Europe/Berlin' WHERE id = $1", owner)
    return "Europe/Berlin"


@pytest.mark.parametrize(
    ("per", "moment", "starts", "ends"),
    [
        ("day", "2026-03-29 00:30+01", "2026-03-28 23:00+00", "2026-03-29 22:00+00"),  # 23 hours
        ("day", "2026-10-25 23:30+01", "2026-10-24 22:00+00", "2026-10-25 23:00+00"),  # 25 hours
        ("hour", "2026-10-25 02:30+02", "2026-10-25 00:00+00", "2026-10-25 01:00+00"),  # the first of two
        ("hour", "2026-10-25 02:30+01", "2026-10-25 01:00+00", "2026-10-25 02:00+00"),
        ("month", "2026-03-31 23:59+02", "2026-02-28 23:00+00", "2026-03-31 22:00+00"),
        ("month", "2028-02-29 12:00+01", "2028-01-31 23:00+00", "2028-02-29 23:00+00"),
        ("month", "2026-12-31 23:59+01", "2026-11-30 23:00+00", "2026-12-31 23:00+00"),
        ("month", "2027-01-01 00:00+01", "2026-12-31 23:00+00", "2027-01-31 23:00+00"),
    ],
)
async def test_windows_follow_the_clock_on_the_tenants_wall(
    database: Database, berlin: str, per: str, moment: str, starts: str, ends: str
) -> None:
    ((right,),) = await query(
        database,
        "SELECT (w.starts_at, w.ends_at) = ($4::text::timestamptz, $5::text::timestamptz)"
        " FROM quota_window($1, $2, $3::text::timestamptz) w",
        per, berlin, moment, starts, ends,
    )  # fmt: skip
    assert right


@pytest.mark.parametrize("per", ["hour", "day", "month"])
async def test_a_new_window_has_the_whole_quota_again(shares: Shares, clock: Clock, per: str) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(3, per=per)
    assert await usable(shares.process(), rule) == 3
    ends_at = (await shares.standing(rule)).resets_at
    assert ends_at is not None
    ((left,),) = await query(shares.database, "SELECT $1::timestamptz - clock()", ends_at)
    await clock.advance(left - timedelta(milliseconds=1))
    assert await usable(shares.process(), rule) == 0
    await clock.advance(timedelta(milliseconds=1))
    assert await usable(shares.process(), rule) == 3


async def test_a_request_is_counted_in_the_window_in_which_it_was_admitted(shares: Shares, clock: Clock) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(3, per="hour", on_crash="free")
    process = shares.process()
    ((old, amount),) = await process.take({(rule, ""): 1})
    await clock.advance(timedelta(hours=1))
    old.ends_at = 0.0  # this process's clock has come to the end too
    await use(process, rule, amount=2)
    old.settle(amount)
    await process.once()
    rows = await query(
        shares.database, "SELECT settled FROM quota_use WHERE tenant_id = $1 ORDER BY window_start", shares.owner
    )
    assert rows == [(1,), (2,)]


async def test_no_60_seconds_see_more_than_the_quota_of_a_minute(shares: Shares, clock: Clock) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(10, per="minute")
    process = shares.process()
    admitted: list[float] = []
    for second in range(0, 200, 3):
        count = await usable(process, rule, at_most=4)
        await process.once()
        admitted += [second] * count
        await clock.advance(timedelta(seconds=3))
    most = max(sum(1 for at in admitted if start <= at < start + 60) for start in range(200))
    assert most == 10
    assert len(admitted) == 40  # it is free again after 61 seconds: at 0, 63, 126 and 189


# Several quotas


async def test_a_request_takes_from_all_its_quotas_or_from_none(shares: Shares) -> None:
    wide, narrow = await shares.quota(100), await shares.quota(2, per="hour")
    process = shares.process()
    for _ in range(2):
        await use(process, wide, narrow)
    for _ in range(5):
        with pytest.raises(NothingLeft, match="jobs-per-hour"):
            await use(process, wide, narrow)
    await process.once()
    assert (await shares.used(wide))[0] == 2


async def test_requests_of_many_processes_for_quotas_in_any_order_do_not_deadlock(shares: Shares) -> None:
    rules = [await shares.quota(300, per=per) for per in ("hour", "day", "month")]
    processes = [shares.process() for _ in range(4)]

    async def one(number: int) -> int:
        order = rules if number % 2 else rules[::-1]
        try:
            await use(processes[number % 4], *order)
        except NothingLeft:
            return 0
        return 1

    admitted = 0
    for _ in range(10):
        admitted += sum(await within(asyncio.gather(*(one(number) for number in range(60))), 60))
    for process in processes:
        await process.stop()
    assert admitted <= 300
    for rule in rules:
        assert await shares.used(rule) == (admitted, 0, 0)


async def test_requests_that_come_while_a_statement_is_in_flight_cause_no_refusals(shares: Shares) -> None:
    common, other = await shares.quota(1000), await shares.quota(1000, per="hour")
    process = shares.process()
    (slice_,) = await use(process, common)
    slice_._pace = 20
    await process.once()
    await use(process, common)
    await process.once()
    held = slice_.available(time.monotonic())
    assert held >= 3
    slice_._pace = slice_._recently = 0
    waiting = [asyncio.create_task(use(process, common, other)) for _ in range(10)]
    while process._waiting or process._syncing is None or process._syncing.done():
        await asyncio.sleep(0)  # until the statement for the ten is in flight
    await use(process, common, amount=held)
    await within(asyncio.gather(*waiting))
    await process.stop()
    assert await shares.used(common) == (12 + held, 0, 0)


async def test_a_limit_that_is_lowered_holds_at_once_and_one_that_is_raised_too(shares: Shares) -> None:
    rule = await shares.quota(10)
    process = shares.process()
    await use(process, rule, amount=6)
    await process.once()
    lower = await shares.quota(3)
    with pytest.raises(NothingLeft):
        await use(process, lower)
    higher = await shares.quota(8)
    assert await usable(process, higher) == 2


# Processes that die, stand still, or lose the database


async def test_what_a_killed_process_held_is_free_again_within_a_minute(shares: Shares, clock: Clock) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(2, "calls_at_once", None)
    killed, other = shares.process(), shares.process()
    await killed.take({(rule, ""): 2})
    with pytest.raises(NothingLeft):
        await other.take({(rule, ""): 1})
    await clock.advance(timedelta(seconds=29))
    with pytest.raises(NothingLeft):
        await other.take({(rule, ""): 1})
    await clock.advance(timedelta(seconds=1))
    await other.take({(rule, ""): 2})


@pytest.mark.parametrize("on_crash", ["free", "charge"])
async def test_what_a_killed_process_held_is_free_or_charged(shares: Shares, clock: Clock, on_crash: str) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(100, on_crash=on_crash)
    killed = shares.process()
    await use(killed, rule, amount=3)
    await killed.once()
    await use(killed, rule, amount=5)  # admitted, but not reported yet
    used, held, _ = await shares.used(rule)
    assert used == 3
    assert held is not None
    assert 5 <= held <= 10
    await clock.advance(timedelta(seconds=30))
    await shares.expire()
    charged = held if on_crash == "charge" else 0
    assert await shares.used(rule) == (3 + charged, 0, charged)


async def test_with_charge_a_quota_is_not_exceeded_however_processes_die(shares: Shares, clock: Clock) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(60, on_crash="charge")
    admitted = 0
    for _ in range(12):
        process = shares.process()
        admitted += await usable(process, rule, at_most=7)
        await clock.advance(timedelta(seconds=30))  # it was killed
    await shares.expire()
    used, reserved, unaccounted = await shares.used(rule)
    assert admitted <= 60
    assert (used, reserved) == (60, 0)
    assert unaccounted > 0


async def test_a_process_that_stood_still_does_not_use_its_old_slice(shares: Shares, clock: Clock) -> None:
    """The process was stopped for a minute, as by SIGSTOP: its slice has expired, and others have taken it."""
    await clock.freeze(noon=True)
    rule = await shares.quota(30, on_crash="free")
    stopped, other = shares.process(), shares.process()
    for one in await use(stopped, rule, amount=1):
        one.tick()
        one._pace = 4
    await stopped.once()
    ((slice_, amount),) = await stopped.take({(rule, ""): 1})
    slice_.release(amount)
    assert slice_.available(time.monotonic()) > 0
    await clock.advance(MINUTE)
    slice_._valid_until -= 60  # its own clock went on
    assert slice_.available(time.monotonic()) == 0
    assert await usable(other, rule) == 29
    with pytest.raises(NothingLeft):
        await use(stopped, rule)
    for process in (stopped, other):
        await process.stop()
    assert await shares.used(rule) == (30, 0, 0)


async def test_idle_slices_are_given_back(shares: Shares) -> None:
    rule = await shares.quota(100)
    idle, other = shares.process(), shares.process()
    (slice_,) = await use(idle, rule)
    slice_._pace = 20
    await idle.once()
    await use(idle, rule)
    await idle.once()
    assert slice_.available(time.monotonic()) > 0
    assert await usable(other, rule) < 98
    slice_.retire()
    await idle.once()
    await idle.once()
    assert idle._all() == []
    await usable(other, rule)
    await other.stop()
    assert await shares.used(rule) == (100, 0, 0)


@pytest.fixture
async def line(postgres_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[DatabaseProxy]:
    """A connection to the test's server that can be cut."""
    proxy = DatabaseProxy(tmp_path, f"{socket_folder(postgres_server.data_dir)}/.s.PGSQL.5432")
    await proxy.mend()
    yield proxy
    await proxy.cut()


async def test_a_report_whose_commit_is_unknown_is_booked_once(
    shares: Shares, line: DatabaseProxy, module_database_url: str
) -> None:
    rule = await shares.quota(50)
    distant = database_over(line, module_database_url)
    process = Slices(distant)
    await use(process, rule, amount=3)
    line.lose_response_to(rule.id.bytes)
    with pytest.raises(DatabaseUnavailable):
        await process.once()
    assert line.lost.is_set()
    assert (await shares.used(rule))[0] == 3  # it was committed
    await process.once()
    line.lose_response_to(rule.id.bytes)
    with pytest.raises(DatabaseUnavailable):
        await use(process, rule, amount=40)  # granted, but the process does not know
    await use(process, rule, amount=2)
    assert await usable(process, rule) == 45
    await process.stop()
    assert await shares.used(rule) == (50, 0, 0)
    await distant.close()


async def test_without_the_database_a_slice_is_used_for_15_seconds(
    shares: Shares, line: DatabaseProxy, module_database_url: str
) -> None:
    rule = await shares.quota(1000)
    distant = database_over(line, module_database_url)
    process = Slices(distant)
    (slice_,) = await use(process, rule)
    slice_._pace = 20
    await process.once()
    await use(process, rule, amount=2)
    await process.once()
    await line.cut()
    await use(process, rule)
    slice_._valid_until -= 15
    with pytest.raises(DatabaseUnavailable):
        await use(process, rule)
    await line.mend()
    await use(process, rule)
    await process.stop()
    assert await shares.used(rule) == (5, 0, 0)
    await distant.close()


async def test_a_client_that_leaves_while_its_request_waits_takes_nothing(shares: Shares) -> None:
    rule = await shares.quota(1, "calls_at_once", None)
    process = shares.process()
    for _ in range(20):
        waiting = asyncio.create_task(process.take({(rule, ""): 1}))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await process.sync()
    await process.once()
    await process.take({(rule, ""): 1})


@pytest.mark.parametrize("steps", range(12))
async def test_a_client_that_leaves_at_any_step_gives_back_what_it_took(shares: Shares, steps: int) -> None:
    rule = await shares.quota(1, "calls_at_once", None)
    process = shares.process()
    waiting = asyncio.create_task(process.take({(rule, ""): 1}))
    for _ in range(steps):
        await asyncio.sleep(0.001)
        if process._current and next(iter(process._current.values())).reserved:
            break
    if waiting.cancel():
        await asyncio.gather(waiting, return_exceptions=True)
    elif not waiting.cancelled():
        for one, amount in waiting.result():
            one.release(amount)
    await process.sync()
    await process.once()
    await process.take({(rule, ""): 1})


async def test_old_windows_are_removed(shares: Shares, clock: Clock) -> None:
    await clock.freeze(noon=True)
    rule = await shares.quota(10)
    process = shares.process()
    await use(process, rule)
    await process.stop()
    await clock.advance(timedelta(days=101))
    async with shares.database.acquire() as connection:
        assert await store.forget(connection, limit=1000) >= 1
    assert await query(shares.database, "SELECT FROM quota_use WHERE tenant_id = $1", shares.owner) == []
