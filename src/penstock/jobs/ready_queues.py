"""Announcements of ready jobs on RabbitMQ, where each reaches one idle worker instead of all processes.

An announcement names a tenant's queue and how many of its jobs became ready. It goes to the topic exchange
``penstock.ready``. Workers that claim the same queues share a quorum queue, bound to the announcements that they want.
A worker consumes only while one of its claims is idle: it wakes that claim, puts back what the claim cannot take, and
acknowledges. Which jobs it gets is decided by the claim, in PostgreSQL. So an announcement that is lost costs a worker
its poll interval, and one that arrives twice costs an empty claim.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from penstock.brokers.broker import BrokerUnavailable
from penstock.brokers.rabbitmq import RabbitMQ, word
from penstock.jobs.announcements import READY, any_queue, queues_of
from penstock.jobs.claims import ClaimQueue, Kind
from penstock.jobs.sql.rows import TenantQueue
from penstock.part import Part
from penstock.postgres.wakeups import Keys, Wakeups
from penstock.telemetry import logs, metrics
from penstock.tenants.principal import TenantId

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

log = logs.get(__name__)

EXCHANGE: Final = "penstock.ready"
_ANY: Final = "any"  # the routing key of jobs of an unknown queue
_MAX_QUEUES: Final = 10_000  # with announcements that are not published yet
_AT_ONCE: Final = 100  # messages in flight: their confirmations are awaited together
_MAX_KINDS: Final = 100  # of claims of one process
_AGAIN_SECONDS: Final = 0.2  # before a lost channel is opened again; it doubles while that fails
_LONGEST_PAUSE_SECONDS: Final = 5.0
_CONSUME_SECONDS: Final = 5.0  # which RabbitMQ may take to begin to deliver from a queue
_QUEUE_ARGUMENTS: Final[dict[str, str | int]] = {
    "x-queue-type": "quorum",
    "x-message-ttl": 60_000,  # milliseconds; by then workers have polled
    "x-max-length": 10_000,  # the oldest are dropped
    "x-expires": 3_600_000,  # milliseconds without a consumer, after which RabbitMQ deletes the queue
}
_ANNOUNCED = metrics.counter(
    "penstock_rabbitmq_announcements", "Announcements of ready jobs on RabbitMQ, by outcome.", ["outcome"]
)


class Announcement(msgspec.Struct, array_like=True, frozen=True):
    """The body of a message."""

    tenant: int
    task_type: str
    model_profile: str
    count: int

    @property
    def queue(self) -> TenantQueue:
        return (TenantId(self.tenant), self.task_type, self.model_profile)


class ReadyPublisher:
    """Publishes the announcements of ready jobs that this process makes, after their commit.

    Announcements of one queue are added up while earlier ones are being confirmed. Without a connection they are
    dropped.
    """

    def __init__(self, rabbitmq: RabbitMQ, wakeups: Wakeups) -> None:
        self._rabbitmq = rabbitmq
        self._counts: Counter[TenantQueue] = Counter()
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        rabbitmq.on_connect(_declare_exchange)
        wakeups.forward(READY, self._collect)

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop publishing. Jobs that are not announced yet are found by polling."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _collect(self, keys: Keys) -> None:
        if keys and self._rabbitmq.connected.is_set():
            self._counts.update(dict(queues_of(keys.items())))
            self._due.set()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            counts, self._counts = self._counts, Counter()
            due = [Announcement(*queue, count) for queue, count in counts.most_common(_MAX_QUEUES)]
            for start in range(0, len(due), _AT_ONCE):
                sent = await asyncio.gather(*map(self._publish, due[start : start + _AT_ONCE]), return_exceptions=True)
                lost = sum(isinstance(one, BrokerUnavailable) for one in sent)
                _ANNOUNCED.labels("lost").inc(lost)
                _ANNOUNCED.labels("confirmed").inc(len(sent) - lost)
                for one in sent:
                    if isinstance(one, BaseException) and not isinstance(one, BrokerUnavailable):
                        log.warning("announcement_failed", reason=f"{type(one).__name__}: {one}")

    async def _publish(self, announcement: Announcement) -> None:
        unknown = announcement.queue == any_queue(announcement.queue[0])
        key = _ANY if unknown else routing_key(announcement.task_type, announcement.model_profile)
        await self._rabbitmq.publish(msgspec.json.encode(announcement), exchange=EXCHANGE, routing_key=key)


class ReadyConsumer:
    """Wakes idle claims of this process when it receives announcements. The claims take jobs of all tenants."""

    def __init__(self, rabbitmq: RabbitMQ, claims: ClaimQueue) -> None:
        self._rabbitmq = rabbitmq
        self._claims = claims
        self._idle: dict[Kind, asyncio.Event] = {}  # set when a claim of the kind has become idle
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to consume for the kinds of claims that become idle from now on."""
        self._claims.on_idle = self._became_idle

    async def stop(self) -> None:
        """Stop consuming; wake-ups from PostgreSQL wake all claims again."""
        self._claims.on_idle = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._idle.clear()

    def _became_idle(self, kind: Kind) -> None:
        if kind not in self._idle:
            if len(self._idle) >= _MAX_KINDS:
                return
            self._idle[kind] = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._follow(kind)))
        self._idle[kind].set()

    async def _follow(self, kind: Kind) -> None:
        """Receive the announcements for a kind of claim, over every connection."""
        pause = _AGAIN_SECONDS
        while True:
            began = time.monotonic()
            try:
                async with self._rabbitmq.channel() as channel:
                    await self._receive(kind, channel)
            except BrokerUnavailable as error:
                log.warning("announcements_lost", reason=str(error))
            except Exception:  # an unforeseen error must not end the consumer
                log.exception("announcements_failed")
            finally:
                self._claims.pushed.discard(kind)
                self._claims.wake(None)  # announcements may have been missed
            lasted = time.monotonic() - began > _LONGEST_PAUSE_SECONDS
            pause = _AGAIN_SECONDS if lasted else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _receive(self, kind: Kind, channel: AbstractChannel) -> None:
        """Consume while a claim is idle. Raises BrokerUnavailable when the channel is closed."""
        await channel.set_qos(prefetch_count=1)
        queue = await _declare_queue(channel, kind)
        inbox: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        channel.close_callbacks.add(lambda *_: inbox.put_nowait(None))
        while True:
            await self._idle[kind].wait()
            self._idle[kind].clear()
            tag = await _consume(queue, inbox)
            self._claims.pushed.add(kind)
            while True:
                message = await inbox.get()
                if message is None:
                    raise BrokerUnavailable("the channel is closed")
                if not await self._handle(kind, message, queue.name):
                    break
            await queue.cancel(tag)
            while not inbox.empty():
                if (message := inbox.get_nowait()) is not None:
                    await message.nack(requeue=True)

    async def _handle(self, kind: Kind, message: AbstractIncomingMessage, queue_name: str) -> bool:
        """Wake claims for an announcement; return False if none is idle, so that another worker should get it."""
        try:
            announced = msgspec.json.decode(message.body, type=Announcement)
        except msgspec.MsgspecError:  # published by another program
            log.warning("announcement_not_understood", bytes=len(message.body))
            await message.ack()
            return True
        taken = self._claims.push(kind, announced.queue, announced.count)
        if not taken:
            await message.nack(requeue=True)
            return False
        if taken < announced.count:
            rest = msgspec.structs.replace(announced, count=announced.count - taken)
            await self._rabbitmq.publish(msgspec.json.encode(rest), exchange=EXCHANGE, routing_key=queue_name)
        await message.ack()
        return True


def part(rabbitmq: RabbitMQ, wakeups: Wakeups, claims: ClaimQueue | None = None) -> Part:
    """Publish the announcements that this process makes and, with ``claims``, wake idle claims of this process."""
    publisher = ReadyPublisher(rabbitmq, wakeups)
    consumer = None if claims is None else ReadyConsumer(rabbitmq, claims)

    async def start() -> None:
        await publisher.start()
        if consumer is not None:
            await consumer.start()

    async def stop() -> None:
        if consumer is not None:
            await consumer.stop()
        await publisher.stop()

    return Part(start=start, stop=stop)


async def _declare_exchange(channel: AbstractChannel) -> AbstractExchange:
    return await channel.declare_exchange(EXCHANGE, "topic", durable=True)


async def _declare_queue(channel: AbstractChannel, kind: Kind) -> AbstractQueue:
    """Declare the quorum queue that is shared by all workers that claim the same queues of jobs."""
    exchange = await _declare_exchange(channel)
    digest = hashlib.sha256(msgspec.json.encode(kind)).hexdigest()[:16]
    queue = await channel.declare_queue(f"penstock.claims.{digest}", durable=True, arguments={**_QUEUE_ARGUMENTS})
    for key in (*binding_keys(kind), _ANY, queue.name):  # its own name, for announcements that a worker puts back
        await queue.bind(exchange, key)
    return queue


async def _consume(queue: AbstractQueue, inbox: asyncio.Queue[AbstractIncomingMessage | None]) -> str:
    """Begin to consume; return the consumer's tag.

    A node that was killed just after the queue was declared may never recover it. Such a queue is deleted, and declared
    again over the next channel.
    """
    try:
        async with asyncio.timeout(_CONSUME_SECONDS):
            return await queue.consume(inbox.put)
    except TimeoutError:
        async with asyncio.timeout(_CONSUME_SECONDS):
            await queue.delete(if_unused=False, if_empty=False)
        raise


def routing_key(task_type: str, model_profile: str) -> str:
    """Return the routing key of a queue of jobs: two words. Characters that separate or match words are encoded."""
    return f"{word(task_type)}.{word(model_profile)}"


def binding_keys(kind: Kind) -> Iterator[str]:
    """Return the patterns of the queues of jobs that a kind of claim names; no names mean any."""
    task_types, model_profiles = kind
    for task_type in task_types or ("",):
        for model_profile in model_profiles or ("",):
            yield f"{word(task_type) if task_type else '*'}.{word(model_profile) if model_profile else '*'}"
