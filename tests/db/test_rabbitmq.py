"""RabbitMQ: each announcement of ready jobs reaches one idle worker, and its readers get every event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aio_pika.abc import AbstractIncomingMessage

from penstock.brokers.rabbitmq import RabbitAddress, RabbitMQ
from penstock.events.rabbitmq import EXCHANGE as EVENTS
from penstock.events.rabbitmq import EventExchange
from penstock.jobs import polling
from penstock.jobs.ready_queues import EXCHANGE, Announcement, ReadyConsumer, ReadyPublisher, binding_keys, routing_key
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob, ClaimRequest
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.supervisor.ports import free_port
from tests.support.brokers import Server, add_user, address_of, needs_rabbitmq, rabbitmq_server
from tests.support.databases import open_database
from tests.support.jobs import JobCaller, finished_job, job_service
from tests.support.relays import relay_to
from tests.support.waiting import until, within

pytestmark = needs_rabbitmq()

_WANTED = ClaimRequest(
    worker_id="w", task_types=["echo"], model_profiles=["small"], limit=1, lease_seconds=30, wait_seconds=60
)
_KIND = (("echo",), ("small",))


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
async def rabbitmq(broker: Server) -> AsyncIterator[RabbitMQ]:
    """A connection beside those of the services."""
    async with connected(broker) as rabbitmq:
        yield rabbitmq


@pytest.fixture(autouse=True)
def _no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims poll so rarely that only an announcement can wake them."""
    monkeypatch.setattr(polling, "POLL_INTERVAL", timedelta(minutes=5))


@pytest.fixture
async def submitter(alone: JobCaller, broker: Server) -> AsyncIterator[JobCaller]:
    """Submits in a process that publishes its announcements."""
    rabbitmq = RabbitMQ(address_of(broker))
    publisher = ReadyPublisher(rabbitmq, alone.service.wakeups)
    await publisher.start()
    await rabbitmq.start()
    await within(rabbitmq.connected.wait())
    yield alone
    await publisher.stop()
    await rabbitmq.stop()


@asynccontextmanager
async def connected(node: Server, address: RabbitAddress | None = None) -> AsyncIterator[RabbitMQ]:
    rabbitmq = RabbitMQ(address or address_of(node))
    await rabbitmq.start()
    try:
        await within(rabbitmq.connected.wait())
        yield rabbitmq
    finally:
        await rabbitmq.stop()


class Worker:
    """A process whose claims are woken through RabbitMQ."""

    def __init__(self, service: JobService) -> None:
        self.service = service
        self.claiming: asyncio.Task[list[ClaimedJob]] | None = None

    async def wait_for_job(self, limit: int = 1) -> None:
        """Begin a claim, and return once it is idle and its announcements come from RabbitMQ."""
        request = msgspec.structs.replace(_WANTED, limit=limit)
        self.claiming = asyncio.create_task(self.service.claim(request))
        await until(
            lambda: _KIND in self.service.claims.pushed and self.service.claims.idle(_KIND), "the claim is idle"
        )

    async def jobs(self) -> list[ClaimedJob]:
        assert self.claiming is not None
        return await within(self.claiming)

    @property
    def waits(self) -> bool:
        return self.claiming is not None and not self.claiming.done()


@asynccontextmanager
async def workers(
    count: int, database: Database, broker: Server, address: RabbitAddress | None = None
) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            far = await stack.enter_async_context(open_database(database.url))
            service = await stack.enter_async_context(job_service(far))
            rabbitmq = await stack.enter_async_context(connected(broker, address))
            consumer = ReadyConsumer(rabbitmq, service.claims)
            await consumer.start()
            stack.push_async_callback(consumer.stop)
            started.append(Worker(service))
        yield started


async def test_an_announcement_wakes_one_of_two_idle_workers(
    submitter: JobCaller, fresh: Database, broker: Server
) -> None:
    async with workers(2, fresh, broker) as both:
        for one in both:
            await one.wait_for_job()
        await submitter.submit()
        await until(lambda: not all(one.waits for one in both), "a worker has the job")
        (first,) = [one for one in both if not one.waits]
        (second,) = [one for one in both if one.waits]
        assert len(await first.jobs()) == 1
        assert second.waits
        await submitter.submit()
        assert len(await second.jobs()) == 1


async def test_what_one_worker_cannot_take_goes_to_the_others(
    submitter: JobCaller, fresh: Database, broker: Server
) -> None:
    async with workers(3, fresh, broker) as all_three:
        for one in all_three:
            await one.wait_for_job()
        jobs = await submitter.submit_many(3)
        claimed = [job.id for one in all_three for job in await one.jobs()]
        assert sorted(claimed) == sorted(job.id for job in jobs)


async def test_the_documented_permissions_are_enough(
    submitter: JobCaller, fresh: Database, broker: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker declares its queue, consumes from it, and puts back what it cannot take."""
    address = await add_user(broker, "penstock", r"^penstock\.")
    async with workers(2, fresh, broker, address) as both:
        for one in both:
            await one.wait_for_job()
        await submitter.submit_many(2)
        assert [len(await one.jobs()) for one in both] == [1, 1]
        assert "lost" not in caplog.text  # RabbitMQ closes the channel of one who exceeds its permissions


async def test_a_busy_worker_leaves_announcements_to_idle_ones(
    submitter: JobCaller, fresh: Database, broker: Server
) -> None:
    async with workers(2, fresh, broker) as (busy, idle):
        for _ in range(5):  # RabbitMQ chooses which of the two gets it first
            await busy.wait_for_job()
            await submitter.submit()
            assert len(await busy.jobs()) == 1  # it still consumes, but claims no more
            await idle.wait_for_job()
            await submitter.submit()
            assert len(await idle.jobs()) == 1


async def test_announcements_that_are_repeated_or_foreign_change_nothing(
    submitter: JobCaller, fresh: Database, broker: Server, rabbitmq: RabbitMQ
) -> None:
    async with workers(1, fresh, broker) as (worker,):
        await worker.wait_for_job(limit=5)
        stale = msgspec.json.encode(Announcement(int(submitter.tenant), "echo", "small", 3))
        for body in (b"", b"{", b"[1]", b"[" * 100_000, stale, stale):
            await rabbitmq.publish(body, exchange=EXCHANGE, routing_key=routing_key("echo", "small"))
        job = await submitter.submit()
        assert [claimed.id for claimed in await worker.jobs()] == [job.id]


async def test_a_broker_that_dies_and_comes_back_is_used_again(
    submitter: JobCaller, fresh: Database, broker: Server
) -> None:
    async with workers(1, fresh, broker) as (worker,):
        await worker.wait_for_job()
        await broker.kill()
        await until(lambda: _KIND not in worker.service.claims.pushed, "the loss is noticed")
        await submitter.submit()
        assert len(await worker.jobs()) == 1  # woken by PostgreSQL
        await broker.start()
        await worker.wait_for_job()


async def test_all_nodes_refused_is_no_error(alone: JobCaller) -> None:
    """Nothing listens there: publishing drops its announcements, and claims are woken by PostgreSQL."""
    rabbitmq = RabbitMQ(RabbitAddress(nodes=[("127.0.0.1", free_port())], user="u", password=Secret("p"), vhost="/"))
    publisher = ReadyPublisher(rabbitmq, alone.service.wakeups)
    consumer = ReadyConsumer(rabbitmq, alone.service.claims)
    for part in (rabbitmq, publisher, consumer):
        await part.start()
    claiming = asyncio.create_task(alone.service.claim(_WANTED))
    await until(lambda: alone.service.claims.idle(_KIND), "the claim is idle")
    await alone.submit()
    assert len(await within(claiming)) == 1
    for part in (consumer, publisher, rabbitmq):
        await within(part.stop())


async def test_events_reach_the_queues_of_rabbitmq_while_it_dies_and_comes_back(
    alone: JobCaller, fresh: Database, broker: Server
) -> None:
    rabbitmq = RabbitMQ(address_of(broker))
    relay = relay_to(EventExchange(rabbitmq), fresh)
    await rabbitmq.start()
    await within(rabbitmq.connected.wait())
    async with rabbitmq.channel() as channel:
        queue = await channel.declare_queue("reader", durable=True)
        await queue.bind(EVENTS, f"{await tenant_name(alone, fresh)}.job.completed")
    await relay.once()
    running = asyncio.create_task(relay.run())
    first = [await finished_job(alone) for _ in range(20)]
    await broker.kill()
    second = [await finished_job(alone) for _ in range(20)]
    await broker.start()
    third = [await finished_job(alone) for _ in range(20)]
    received = await read_until(rabbitmq, {str(job_id) for job_id in (*first, *second, *third)})
    assert [event["type"] for event in received] == ["job.completed"] * len(received)
    once = list(dict.fromkeys(event["subject"] for event in received))
    assert once == [str(job_id) for job_id in (*first, *second, *third)]
    await relay.stop()
    await running
    await rabbitmq.stop()


async def read_until(rabbitmq: RabbitMQ, wanted: set[str]) -> list[Any]:
    """Read the queue until it has delivered the events of these jobs."""
    received: list[Any] = []
    await within(rabbitmq.connected.wait(), 60)
    async with rabbitmq.channel() as channel:
        queue = await channel.get_queue("reader")
        inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await queue.consume(inbox.put, no_ack=True)
        while not wanted <= {event["subject"] for event in received}:
            received.append(json.loads((await within(inbox.get(), 60)).body))
    return received


async def tenant_name(caller: JobCaller, database: Database) -> str:
    async with database.acquire() as connection:
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", caller.tenant)
    return str(name).replace(" ", "%20")


@pytest.mark.parametrize(
    ("task_type", "model_profile", "key"),
    [
        ("echo", "small", "echo.small"),
        ("a.b", "*", "a%2Eb.%2A"),
        ("#", "größe", "%23.gr%C3%B6%C3%9Fe"),
    ],
)
def test_names_are_one_word_of_a_routing_key(task_type: str, model_profile: str, key: str) -> None:
    assert routing_key(task_type, model_profile) == key


def test_long_names_fit_into_a_routing_key() -> None:
    keys = {routing_key("€" * 100 + str(number), "€" * 100) for number in range(10)}
    assert len(keys) == 10
    assert all(len(key) <= 255 for key in keys)


def test_claims_without_names_want_any() -> None:
    assert list(binding_keys(((), ()))) == ["*.*"]
    assert list(binding_keys((("a", "b"), ()))) == ["a.*", "b.*"]
