"""Redis: copies of completed jobs and of events. When it is away, PostgreSQL has everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from penstock.brokers.redis import Redis, RedisAddress
from penstock.errors import NotFound
from penstock.events.redis import EventStreams
from penstock.jobs.job import Job
from penstock.jobs.results import Results
from penstock.jobs.service import JobService
from penstock.jobs.states import Status
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from penstock.tenants.principal import DEFAULT_TENANT
from tests.support.brokers import Server, needs_redis, redis_server
from tests.support.databases import execute
from tests.support.jobs import JobCaller, finished_job
from tests.support.relays import relay_to
from tests.support.waiting import until, within

pytestmark = needs_redis()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with redis_server(tmp_path_factory.mktemp("redis"), password="of this test") as server:
        yield server


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    async with connected(server) as redis:
        yield redis


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Redis]:
    redis = Redis(RedisAddress(host="127.0.0.1", port=server.port, password=Secret("of this test")))
    await redis.start()
    try:
        await within(redis.connected.wait())
        yield redis
    finally:
        await redis.stop()


@pytest.fixture
async def caching(caller: JobCaller, database: Database, redis: Redis) -> AsyncIterator[JobCaller]:
    """Calls of the same tenant through a process that uses Redis."""
    service = JobService(database, results=Results(redis, keep=timedelta(minutes=1)))
    await service.start()
    yield JobCaller(service, caller.tenant)
    await service.stop()


async def lose_job(database: Database, job_id: object) -> None:
    """Remove a job's row from PostgreSQL, so that only a copy can be read."""
    await execute(database, "DELETE FROM job WHERE id = $1", job_id)


async def test_a_completed_job_is_read_from_redis(caching: JobCaller, database: Database) -> None:
    job_id = await finished_job(caching)
    first = await caching.get(job_id)
    await lose_job(database, job_id)
    assert await caching.get(job_id) == first
    assert first.status is Status.COMPLETED
    assert first.result is not None
    assert bytes(first.result) == b'"done"'


async def test_jobs_that_may_change_are_not_kept(caching: JobCaller, redis: Redis) -> None:
    pending = await caching.submit()
    running = await caching.submit_and_claim(task_type="other")
    for job_id in (pending.id, running.id):
        await caching.get(job_id)
    with redis.client() as client:
        assert await client.exists(*(f"penstock:job:{caching.tenant}:{i.hex}" for i in (pending.id, running.id))) == 0


async def test_a_copy_is_read_by_its_own_tenant_only(caching: JobCaller, far_caller: JobCaller) -> None:
    job_id = await finished_job(caching)
    await caching.get(job_id)
    stranger = JobCaller(caching.service, type(caching.tenant)(caching.tenant + 1000))
    with pytest.raises(NotFound):
        await stranger.get(job_id)


async def test_copies_expire(caching: JobCaller, redis: Redis) -> None:
    job_id = await finished_job(caching)
    await caching.get(job_id)
    with redis.client() as client:
        assert 0 < await client.ttl(f"penstock:job:{caching.tenant}:{job_id.hex}") <= 60


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff" * 100, b"[" * 10_000])
async def test_what_is_not_a_job_is_ignored(caching: JobCaller, redis: Redis, body: bytes) -> None:
    job_id = await finished_job(caching)
    with redis.client() as client:
        await client.set(f"penstock:job:{caching.tenant}:{job_id.hex}", body)
    assert (await caching.get(job_id)).status is Status.COMPLETED


async def test_a_flushed_redis_loses_nothing(caching: JobCaller, redis: Redis) -> None:
    job_id = await finished_job(caching)
    first = await caching.get(job_id)
    with redis.client() as client:
        await client.flushall()
    assert await caching.get(job_id) == first


async def test_a_redis_that_dies_causes_no_errors_and_is_used_again(
    caller: JobCaller, database: Database, tmp_path: Path
) -> None:
    async with redis_server(tmp_path, password="of this test") as mortal, connected(mortal) as redis:
        results = Results(redis, keep=timedelta(minutes=1))
        job_id = await finished_job(caller)
        job = await caller.get(job_id)
        await mortal.kill()
        assert await results.get(caller.tenant, job_id) is None
        await results.put(caller.tenant, job)
        await until(lambda: not redis.connected.is_set(), "the loss is noticed")
        await mortal.start()
        await within(redis.connected.wait())
        await results.put(caller.tenant, job)
        assert await results.get(caller.tenant, job_id) == job


async def test_a_redis_that_never_responds_is_not_waited_for(caller: JobCaller) -> None:
    async with silent_server() as port:
        redis = Redis(RedisAddress(host="127.0.0.1", port=port))
        await redis.start()
        redis.connected.set()  # it hangs after it was found
        job = await caller.get(await finished_job(caller))
        results = Results(redis, keep=timedelta(minutes=1))
        assert await within(results.get(caller.tenant, job.id), 5) is None
        assert not redis.connected.is_set()
        await within(redis.stop())


async def test_a_wrong_password_or_address_leaves_redis_unused(server: Server) -> None:
    for address in (
        RedisAddress(host="127.0.0.1", port=server.port, password=Secret("wrong")),
        RedisAddress(host="127.0.0.1", port=free_port()),
    ):
        redis = Redis(address)
        await redis.start()
        assert await Results(redis, keep=timedelta(minutes=1)).get(DEFAULT_TENANT, uuid4()) is None
        await redis.stop()


async def test_a_task_that_is_cancelled_ends(caching: JobCaller, redis: Redis) -> None:
    """The driver swallows a part of the cancellations, which would let a duty run on for ever."""
    results = Results(redis, keep=timedelta(minutes=1))
    for turns in range(300):
        task = asyncio.create_task(results.get(caching.tenant, uuid4()))
        for _ in range(turns % 15):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
    assert redis.connected.is_set()


async def test_large_jobs_stay_in_postgresql(caching: JobCaller, redis: Redis) -> None:
    job = await caching.submit_and_claim()
    await caching.complete(job, json.dumps("x" * 2**20).encode())
    assert isinstance(await caching.get(job.id), Job)
    with redis.client() as client:
        assert not await client.exists(f"penstock:job:{caching.tenant}:{job.id.hex}")


async def test_events_are_appended_to_the_stream_of_their_tenant(
    alone: JobCaller, fresh: Database, redis: Redis
) -> None:
    relay = relay_to(EventStreams(redis), fresh)
    await relay.once()
    job_id = await finished_job(alone)
    while await relay.once():
        pass
    async with fresh.acquire() as connection:
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", alone.tenant)
    with redis.client() as client:
        entries: Any = await client.xrange(f"penstock:events:{name}")
    events = [json.loads(fields[b"event"]) for _, fields in entries]
    assert [(event["type"], event["subject"]) for event in events] == [
        (kind, str(job_id)) for kind in ("job.created", "job.started", "job.completed")
    ]
    assert [fields[b"id"].decode() for _, fields in entries] == [event["id"] for event in events]


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Yield a server that accepts connections, reads, and never writes."""

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
