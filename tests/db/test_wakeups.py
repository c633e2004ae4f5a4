"""Wake-ups between processes: topics with keys, together in few messages, each within its bounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from penstock.postgres.pool import Database
from penstock.postgres.wakeups import CHANNEL, Keys, Wakeups
from tests.support.databases import open_database
from tests.support.waiting import until, within


class Listener:
    """The wake-ups that one process receives on some topics."""

    def __init__(self, wakeups: Wakeups, *topics: str) -> None:
        self.heard: list[tuple[str, Keys]] = []
        for topic in topics:
            wakeups.subscribe(topic, lambda keys, topic=topic: self.heard.append((topic, keys)))  # type: ignore[misc]

    async def hears(self, count: int) -> list[tuple[str, Keys]]:
        await until(lambda: len(self.heard) >= count, f"{count} wake-ups")
        return self.heard


@asynccontextmanager
async def process(url: str, *, interval: timedelta = timedelta(milliseconds=5)) -> AsyncIterator[Wakeups]:
    async with open_database(url, max_size=1) as database:
        wakeups = Wakeups(database, interval=interval)
        wakeups.start()
        await within(wakeups.listening.wait())
        try:
            yield wakeups
        finally:
            await wakeups.stop()


@pytest.fixture
async def near(module_database_url: str) -> AsyncIterator[Wakeups]:
    async with process(module_database_url) as wakeups:
        yield wakeups


@pytest.fixture
async def far(module_database_url: str) -> AsyncIterator[Wakeups]:
    async with process(module_database_url) as wakeups:
        yield wakeups


async def test_a_wakeup_reaches_the_subscribers_of_its_topic_here_and_elsewhere(near: Wakeups, far: Wakeups) -> None:
    here, there = Listener(near, "models", "flows"), Listener(far, "models", "flows")
    near.announce("models", {"mood": 2})
    assert here.heard == [("models", {"mood": 2})], "at once, without the database"
    assert await there.hears(1) == [("models", {"mood": 2})]


async def test_a_process_ignores_topics_that_it_does_not_know(near: Wakeups, far: Wakeups) -> None:
    there = Listener(far, "known")
    near.announce("unknown", {"a": 1})
    near.announce("known")
    assert await there.hears(1) == [("known", None)]


async def test_simultaneous_announcements_are_sent_together(
    near: Wakeups, far: Wakeups, module_database_url: str
) -> None:
    messages: list[object] = []
    connection = await asyncpg.connect(module_database_url)
    try:
        await connection.add_listener(CHANNEL, lambda *arguments: messages.append(arguments))
        there = Listener(far, "models", "flows")
        for number in range(1000):
            near.announce("models", {f"m{number % 3}": 1})
        near.announce("flows", urgent=False)
        await there.hears(2)
        assert there.heard == [("models", Counter(m0=334, m1=333, m2=333)), ("flows", None)]
        assert len(messages) == 1
    finally:
        await connection.close()


async def test_the_wakeups_of_one_job_do_not_wait_for_each_other(far: Wakeups, module_database_url: str) -> None:
    there = Listener(far, "jobs")
    async with process(module_database_url, interval=timedelta(hours=1)) as near:
        for step in ("submitted", "claimed", "completed"):
            near.announce("jobs", {step: 1})
            await there.hears(len(there.heard) + 1)
    assert there.heard == [("jobs", {"submitted": 1}), ("jobs", {"claimed": 1}), ("jobs", {"completed": 1})]


async def test_wakeups_that_are_not_urgent_are_sent_too(near: Wakeups, far: Wakeups) -> None:
    there = Listener(far, "flows")
    near.announce("flows", urgent=False)
    assert await there.hears(1) == [("flows", None)]


async def test_many_keys_become_a_wakeup_for_everything(near: Wakeups, far: Wakeups) -> None:
    there = Listener(far, "jobs", "flows")
    for number in range(200):
        near.announce("jobs", {f"job {number}": 1})
    near.announce("flows", {"one": 1})
    assert await there.hears(2) == [("jobs", None), ("flows", {"one": 1})]


async def test_the_largest_topic_loses_its_keys_where_a_message_would_be_too_long(near: Wakeups, far: Wakeups) -> None:
    there = Listener(far, "large", "small")
    near.announce("small", {"s" * 100: 1})
    near.announce("large", {f"{'é' * 1000}{number}": 1 for number in range(5)})
    assert await there.hears(2) == [("small", {"s" * 100: 1}), ("large", None)]


async def test_a_message_of_another_version_wakes_everything(far: Wakeups, module_database_url: str) -> None:
    there = Listener(far, "models", "flows")
    connection = await asyncpg.connect(module_database_url)
    try:
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, '{"another": "wording"}')
    finally:
        await connection.close()
    assert await there.hears(2) == [("models", None), ("flows", None)]


async def test_after_a_lost_connection_everything_is_woken(far: Wakeups, module_database_url: str) -> None:
    there = Listener(far, "models")
    async with open_database(module_database_url, max_size=1) as admin:
        await _cut(admin, "LISTEN%")
        assert await there.hears(1) == [("models", None)]
        await within(far.listening.wait())


async def _cut(admin: Database, query: str) -> None:
    async with admin.acquire() as connection:
        cut = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND query LIKE $1",
            query,
        )
    assert cut
    await asyncio.sleep(0)
