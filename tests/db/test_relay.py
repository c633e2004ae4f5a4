"""A relay copies every event in order, at least once, whatever dies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest

from penstock.events import store
from penstock.events.event import Event, StoredEvent
from penstock.events.position import Position
from penstock.events.relay import Destination, Relay
from penstock.postgres.pool import Database
from tests.support.clocks import Clock
from tests.support.databases import execute, own_tenant
from tests.support.jobs import JobCaller, finished_job
from tests.support.relays import relay_to


class Notebook(Destination):
    """Keeps what it receives; refuses while ``away``."""

    name = "notebook"

    def __init__(self) -> None:
        self.received: list[tuple[str, Event]] = []
        self.away = False
        self.dies = False  # after the next page, before it is recorded

    def ready(self) -> bool:
        return True

    async def share(self, tenant: int, behind: Position, rows: Sequence[StoredEvent]) -> None:
        """Share nothing."""

    async def send(self, tenant: str, events: Sequence[Event]) -> bool:
        if self.away:
            return False
        self.received += [(tenant, event) for event in events]
        if self.dies:
            raise RuntimeError("the process dies")
        return True

    def types(self, subject: object) -> list[str]:
        return [event.type for _, event in self.received if event.subject == subject]


async def copy_all(relay: Relay) -> None:
    while await relay.once():
        pass


_LIFE = ["job.created", "job.started", "job.completed"]


async def test_every_event_is_copied_in_order(alone: JobCaller, fresh: Database) -> None:
    notebook = Notebook()
    relay = relay_to(notebook, fresh)
    await copy_all(relay)  # begins now
    ids = [await finished_job(alone) for _ in range(5)]
    many = await alone.submit_many(700)
    await copy_all(relay)
    assert [notebook.types(job_id) for job_id in ids] == [_LIFE] * 5
    assert {event.subject for _, event in notebook.received} == {*ids, *(job.id for job in many)}
    positions = [event.position for _, event in notebook.received]
    assert positions == sorted(positions)
    await copy_all(relay)
    assert len(notebook.received) == 5 * 3 + 700  # and none again


async def test_a_relay_begins_at_the_end_but_misses_nothing_of_later_tenants(alone: JobCaller, fresh: Database) -> None:
    notebook = Notebook()
    old = await finished_job(alone)
    relay = relay_to(notebook, fresh)
    await relay.once()
    later = JobCaller(alone.service, await own_tenant(fresh))
    new = await finished_job(later)
    await copy_all(relay)
    assert notebook.types(old) == []
    assert notebook.types(new) == _LIFE


async def test_what_could_not_be_sent_is_sent_later(alone: JobCaller, fresh: Database) -> None:
    notebook = Notebook()
    relay = relay_to(notebook, fresh)
    await relay.once()
    job_id = await finished_job(alone)
    notebook.away = True
    assert not await relay.once()
    notebook.away = False
    await copy_all(relay)
    assert notebook.types(job_id) == _LIFE


async def test_what_was_not_recorded_before_a_crash_is_sent_again_by_another_process(
    alone: JobCaller, fresh: Database, fresh_clock: Clock
) -> None:
    notebook = Notebook()
    first, second = relay_to(notebook, fresh), relay_to(notebook, fresh)
    await first.once()
    job_id = await finished_job(alone)
    notebook.dies = True
    with pytest.raises(RuntimeError):
        await first.once()
    notebook.dies = False
    await second.once()
    assert notebook.types(job_id) == _LIFE  # the first one still holds the relay
    await fresh_clock.advance(timedelta(minutes=1))
    await copy_all(second)
    assert notebook.types(job_id) == _LIFE * 2
    ids = [event.id for _, event in notebook.received]
    assert len(set(ids)) == 3  # receivers know them by their ids


async def test_a_process_that_lost_the_relay_moves_no_cursor(alone: JobCaller, fresh: Database) -> None:
    holder, other = uuid4(), uuid4()
    async with fresh.acquire() as connection:
        assert await store.hold_relay(connection, "r", holder, hold=timedelta(seconds=-1))
        assert await store.hold_relay(connection, "r", other, hold=timedelta(seconds=30))
        now = await connection.fetchval("SELECT clock()")
        moved = [
            await store.advance_relay(connection, "r", one, tenant=alone.tenant, position=9, at=now)
            for one in (holder, other)
        ]
    assert moved == [False, True]


async def test_after_a_restore_every_stored_event_is_sent_again(alone: JobCaller, fresh: Database) -> None:
    """The cursor is ahead of the store: which of its events were sent is not known."""
    notebook = Notebook()
    relay = relay_to(notebook, fresh)
    await relay.once()
    job_id = await finished_job(alone)
    await copy_all(relay)
    await execute(fresh, "UPDATE relay_cursor SET position = position + 100")
    notebook.received.clear()
    await copy_all(relay)
    assert notebook.types(job_id) == _LIFE


async def test_a_relay_returns_soon_while_another_process_numbers_events(alone: JobCaller, fresh: Database) -> None:
    """The wake-up for those events has gone by, so it must not wait for the next one."""
    relay = relay_to(Notebook(), fresh)
    await relay.once()
    async with fresh.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('penstock.position_events'))")
        await alone.submit()
        await relay.once()
        assert relay.due_in is not None
        assert relay.due_in <= timedelta(milliseconds=100)
