"""The slices that this process holds, and the statement that synchronises them with the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg

from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import Database
from penstock.processes.periodic import Periodic
from penstock.quotas import store
from penstock.quotas.rules import Needs, Rule
from penstock.quotas.slice import Grant, Report, Slice

Taken = list[tuple[Slice, int]]
_Key = tuple[UUID, str]
# Nothing was written because a quota was being removed; the same reports may succeed now.
_UNLUCKY: Final = (asyncpg.ForeignKeyViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_TRIES: Final = 5
_INTERVAL: Final = timedelta(seconds=1)  # between reports of what was used
_IDLE_INTERVAL: Final = timedelta(minutes=1)  # between passes without a slice


class NothingLeft(Exception):
    """A quota has less left than a request needs. Nothing was taken from any quota."""

    def __init__(self, of: Slice, amount: int) -> None:
        super().__init__(of.rule.name)
        self.slice = of
        self.amount = amount  # the amount that was needed


class Slices(Periodic):
    """Takes what requests need from the slices of this process: everything or nothing, without awaiting in between.

    What a slice lacks is requested from the database, for all waiting requests in one statement; the next statement
    forms while one is in flight. Once a second it reports what was used, renews, and gives back what is idle.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(interval=_INTERVAL, idle_interval=_IDLE_INTERVAL)
        self._database = database
        self._current: dict[_Key, Slice] = {}
        self._ended: set[Slice] = set()  # slices of ended windows that have requests in progress or something to report
        self._waiting: list[_Waiter] = []
        self._syncing: asyncio.Task[None] | None = None
        self._again = False  # something became due while a statement was in flight

    async def take(self, needs: Needs) -> Taken:
        """Take what a request needs of each quota. Raises NothingLeft or DatabaseUnavailable; then nothing is taken."""
        taken = self.take_now(needs)
        if taken is not None:
            return taken
        waiter = _Waiter(needs)
        self._waiting.append(waiter)
        self.sync()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            waiter.give_up()
            raise

    def take_now(self, needs: Needs) -> Taken | None:
        """Take what a request needs, if all of it is available."""
        now = time.monotonic()
        found: Taken = []
        for (rule, subject), amount in needs.items():
            one = self._slice(rule, subject, now)
            if one.available(now) < amount:
                return None
            found.append((one, amount))
        for one, amount in found:
            one.take(amount, now)
        return found

    def _slice(self, rule: Rule, subject: str, now: float) -> Slice:
        """Return the slice of the current window."""
        key = (rule.id, subject)
        found = self._current.get(key)
        if found is None or now >= found.ends_at or found.rule.strict != rule.strict:
            if found is not None:
                self._ended.add(found)
            found = self._current[key] = Slice(rule, subject)
            self.wake()
        found.rule = rule  # its limit may have changed
        return found

    # Synchronisation

    async def once(self) -> bool:
        """Report, renew and give back what is due."""
        for one in self._current.values():
            one.tick()
        await asyncio.shield(self.sync())
        if self._current or self._ended:
            self.due_in = _INTERVAL
        return False

    async def stop(self) -> None:
        """Give back everything that is not in use."""
        await super().stop()
        for one in self._all():
            one.retire()
        try:
            await self.sync()
            await self.sync()  # a second report, which books nothing, removes the slices
        except DatabaseUnavailable:
            pass  # the slices expire

    def sync(self) -> asyncio.Task[None]:
        """Start a statement for everything that waits or is due, or let one follow that in flight; return its task."""
        self._again = True
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync())
            self._syncing.add_done_callback(_retrieve)
        return self._syncing

    async def _sync(self) -> None:
        while self._again or self._waiting:
            self._again = False
            waiting, self._waiting = self._waiting, []
            try:
                await self._round(waiting)
            except Exception as error:
                for waiter in waiting:
                    waiter.fail(error)
                if not self._again and not self._waiting:
                    raise

    async def _round(self, waiting: Sequence[_Waiter]) -> None:
        """Send the reports of slices that are due or lack what requests need, then serve these requests in order."""
        now = time.monotonic()
        lacking: dict[Slice, int] = {}
        for waiter in waiting:
            for (rule, subject), amount in waiter.needs.items():
                one = self._slice(rule, subject, now)
                lacking[one] = lacking.get(one, 0) + amount
        chosen = [*lacking, *(one for one in self._all() if one not in lacking and one.due(now))]
        if chosen:
            reports = [(one, one.report(lacking.get(one, 0))) for one in chosen]
            grants = await self._send(reports)
            for one, report in reports:
                if one.id in grants:
                    one.apply(report, grants[one.id], sent_at=now)
                else:
                    self._drop(one)
            for waiter in waiting:
                self._serve(waiter, without=[one.rule.id for one in lacking if one.id not in grants])
        for one in [one for one in self._all() if one.over(now)]:
            self._drop(one)

    async def _send(self, reports: Sequence[tuple[Slice, Report]]) -> dict[UUID, Grant]:
        for _ in range(_TRIES - 1):
            with suppress(*_UNLUCKY):
                async with self._database.acquire() as connection:
                    return await store.sync(connection, reports)
        async with self._database.acquire() as connection:
            return await store.sync(connection, reports)

    def _serve(self, waiter: _Waiter, without: Sequence[UUID]) -> None:
        """Take what a request needs, or refuse it for the first quota that has too little; skip deleted quotas."""
        if waiter.future.done():  # its client has disconnected
            return
        needs: Mapping[tuple[Rule, str], int] = {
            need: amount for need, amount in waiter.needs.items() if need[0].id not in without
        }
        taken = self.take_now(needs)
        if taken is not None:
            waiter.future.set_result(taken)
            return
        now = time.monotonic()
        found = ((self._slice(rule, subject, now), amount) for (rule, subject), amount in needs.items())
        lacking, amount = next((one, amount) for one, amount in found if one.available(now) < amount)
        if lacking.short:
            waiter.fail(NothingLeft(lacking, amount))
        else:  # newer requests have taken what was granted, or the window has just ended
            self._waiting.append(waiter)

    def _all(self) -> list[Slice]:
        return [*self._current.values(), *self._ended]

    def _drop(self, one: Slice) -> None:
        self._ended.discard(one)
        key = (one.rule.id, one.subject)
        if self._current.get(key) is one:
            del self._current[key]


class _Waiter:
    """A request that waits for the database."""

    __slots__ = ("future", "needs")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.future: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def give_up(self) -> None:
        """Give back what was taken for a client that has disconnected."""
        if self.future.done() and not self.future.cancelled() and self.future.exception() is None:
            for one, amount in self.future.result():
                one.release(amount)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark the error of a statement as seen: waiting requests get it, and a duty logs it."""
    if not task.cancelled():
        task.exception()
