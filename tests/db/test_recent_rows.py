"""Tails of gateways read new rows from Redis. Whatever happens to it, no reader misses an event or gets one twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.brokers.redis import Redis, RedisAddress
from penstock.events import store
from penstock.events.event import Event
from penstock.events.position import START, Position
from penstock.events.recent import RecentRows
from penstock.events.redis import EventStreams
from penstock.events.relay import Relay
from penstock.events.stream import AllEvents, EventStream, OpenStream
from penstock.events.tail import EventTail
from penstock.postgres.pool import Database
from penstock.telemetry.metrics import REGISTRY
from penstock.tenants.principal import DEFAULT_TENANT
from tests.support.brokers import Server, needs_redis, redis_server
from tests.support.relays import relay_to
from tests.support.waiting import until, within

pytestmark = needs_redis()


def read_from(source: str) -> float:
    return REGISTRY.get_sample_value("penstock_event_rows_total", {"source": source}) or 0.0


class House:
    """A database, its relay to a Redis, and a gateway's tail with one stream of all events."""

    def __init__(self, database: Database, server: Server, redis: Redis) -> None:
        self.database = database
        self.server = server
        self.redis = redis
        self.relay: Relay = relay_to(EventStreams(redis), database)
        self.recent = RecentRows(redis)
        self.tail = EventTail(database, DEFAULT_TENANT, {}, self.recent)
        self.numbers: list[int] = []  # of the events that the stream has returned
        self.resets = 0
        self._stored = 0
        self._stream: OpenStream | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, after: Position | None = None) -> None:
        self._stream = await EventStream(self.tail, AllEvents(self.database, DEFAULT_TENANT, self.tail)).open(after)
        self._reading = asyncio.create_task(self._read(self._stream))

    async def _read(self, stream: OpenStream) -> None:
        event: Event
        async for event in stream:
            if event.type == "reset":
                self.resets += 1
            else:
                self.numbers.append(event.data["number"])

    async def store(self, count: int = 1, *, size: int = 0) -> None:
        """Store events, and wake the tail as their announcement does."""
        for _ in range(count):
            self._stored += 1
            data = b'{"number": %d, "x": "%s"}' % (self._stored, b"x" * size)
            async with self.database.acquire() as connection:
                await store.record(connection, DEFAULT_TENANT, "s", kind="test.x", data=data)  # type: ignore[arg-type]
        self.tail.wake()

    async def relayed(self) -> None:
        while await self.relay.once():
            pass

    async def caught_up(self, what: str = "the stream has every event, once and in order") -> None:
        await until(lambda: len(self.numbers) >= self._stored, what, seconds=30)
        assert self.numbers == list(range(1, self._stored + 1))

    async def close(self) -> None:
        await self.tail.stop()
        if self._reading is not None:
            await within(self._reading)


@pytest.fixture
async def house(fresh: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with redis_server(tmp_path / "redis") as server, connected(server) as redis:
        made = House(fresh, server, redis)
        await made.relay.once()
        await made.open()
        yield made
        await made.close()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Redis]:
    redis = Redis(RedisAddress(host="127.0.0.1", port=server.port))
    await redis.start()
    try:
        await within(redis.connected.wait())
        yield redis
    finally:
        await redis.stop()


async def follow(house: House) -> None:
    """Bring the tail to the point from which it reads Redis."""
    await house.store()
    await house.relayed()
    await house.caught_up()


async def test_rows_come_from_redis(house: House) -> None:
    """PostgreSQL is not read for them."""
    await follow(house)
    redis, database = read_from("redis"), read_from("postgresql")
    for _ in range(5):
        await house.store(10)
        await house.relayed()
        await house.caught_up()
    assert read_from("redis") - redis > 30
    assert read_from("redis") - redis + read_from("postgresql") - database == 50


async def test_without_a_relay_rows_come_from_postgresql(house: House) -> None:
    """Redis stays behind, so it is left alone for a while."""
    await follow(house)
    for _ in range(3):
        await house.store(10)
        await house.caught_up()
    await house.relayed()
    await house.store(3)
    await house.caught_up()


async def test_events_without_end_are_read_from_postgresql_too(house: House) -> None:
    """Wake-ups that follow one another without a pause do not keep the tail waiting for Redis."""
    await follow(house)
    before = len(house.numbers)
    for _ in range(2000):
        await house.store()
        if len(house.numbers) > before:
            break
    assert len(house.numbers) > before
    await house.caught_up()


async def test_a_redis_that_dies_and_comes_back_empty(house: House) -> None:
    await follow(house)
    await house.server.kill()
    await house.store(3)
    await house.caught_up("the stream continues without Redis")
    await house.server.start()
    await until(house.redis.connected.is_set, "Redis is used again")
    await house.relayed()
    redis = read_from("redis")
    while read_from("redis") == redis:
        await house.store()
        await house.relayed()
        await house.caught_up()


async def test_a_flushed_redis(house: House) -> None:
    """The rows between are in PostgreSQL only."""
    await follow(house)
    await house.store(2)
    await house.relayed()
    with house.redis.client() as client:
        await client.flushall()
    await house.store(2)
    await house.relayed()
    with house.redis.client() as client:
        await client.flushall()
    await house.store(1)
    await house.relayed()
    await house.caught_up()


async def test_a_redis_that_restarts_with_old_rows(house: House) -> None:
    """Redis has lost the newest entries; the relay continues after them."""
    await follow(house)
    with house.redis.client() as client:
        await client.save()
    await house.store(5)
    await house.relayed()
    await house.caught_up()
    await house.server.kill()
    await house.server.start()
    await until(house.redis.connected.is_set, "Redis is used again")
    await house.store(5)
    await house.relayed()
    await house.caught_up()


async def test_rows_of_another_history_are_not_used(house: House) -> None:
    """A row counts only if the row before it is the one that was read last."""
    await follow(house)
    position = house.tail.end
    async with house.database.acquire() as connection:
        page = await store.read_events(connection, DEFAULT_TENANT, behind=START)
    alien = page.rows[0]
    other = Position(position.number, position.index, position.mark + 1)
    moved = type(alien)(**{name: getattr(alien, name) for name in alien.__slots__} | {"position": position.number + 1})
    await house.recent.append(DEFAULT_TENANT, other, [moved])
    assert await house.recent.read(DEFAULT_TENANT, position) is None
    await house.store(2)
    await house.caught_up()
    await house.relayed()  # replaces the row of the other history
    await house.store(2)
    await house.relayed()
    await house.caught_up()


@pytest.mark.parametrize("body", [b"", b"\xff" * 100, b"\x90", b"\x81\xa1x\x01"])
async def test_what_is_not_a_row_is_ignored(house: House, body: bytes) -> None:
    await follow(house)
    with house.redis.client() as client:
        entry: dict[Any, Any] = {b"row": body}
        await client.xadd(f"penstock:recent:{DEFAULT_TENANT}", entry, id=f"{house.tail.end.number + 1}-1")
    await house.store(2)
    await house.caught_up()


async def test_large_rows_stay_in_postgresql(house: House) -> None:
    """Redis has those before and after them."""
    await follow(house)
    for size in (10, 2**15, 10, 2**15, 2**15, 10):
        await house.store(size=size)
    await house.relayed()
    await house.caught_up()
    with house.redis.client() as client:
        found: Any = await client.xrange(f"penstock:recent:{DEFAULT_TENANT}")
    assert [name for name, _ in found] == [f"{n}-1".encode() for n in (1, 2, 4, 7)]


async def test_many_gateways_and_a_redis_that_comes_and_goes(house: House) -> None:
    """Three tails, a relay that runs all along, and Redis killed, flushed and started meanwhile."""
    others = [House(house.database, house.server, house.redis) for _ in range(2)]
    for other in others:
        await other.open()
    running = asyncio.create_task(house.relay.run())
    try:
        for round_ in range(6):
            for _ in range(20):
                await house.store()
                for other in others:
                    other.tail.wake()
            if round_ == 1:
                await house.server.kill()
            elif round_ == 3:
                await house.server.start()
            elif round_ == 4 and house.redis.connected.is_set():
                with house.redis.client() as client:
                    await client.flushall()
        for one in (house, *others):
            one._stored = house._stored
            await one.caught_up()
            assert one.resets == 0
    finally:
        await house.relay.stop()
        await within(running)
        for other in others:
            await other.close()


async def test_a_restored_database_resets_the_readers(house: House) -> None:
    """PostgreSQL has gone back, and Redis still has the later rows."""
    await follow(house)
    await house.store(3)
    await house.relayed()
    await house.caught_up()
    async with house.database.acquire() as connection:
        await connection.execute("DELETE FROM event_position WHERE tenant_id = $1 AND position > 2", DEFAULT_TENANT)
        await connection.execute("DELETE FROM event WHERE tenant_id = $1 AND at > (SELECT at FROM event_position "
                                 "WHERE tenant_id = $1 AND position = 2)", DEFAULT_TENANT)  # fmt: skip
    house.tail.wake()
    await until(lambda: house.resets == 1, "the stream reports that it begins anew")
