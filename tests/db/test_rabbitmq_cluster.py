"""A cluster of three RabbitMQ nodes whose leader is killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from penstock.brokers.rabbitmq import RabbitMQ
from penstock.events.rabbitmq import EXCHANGE, EventExchange
from penstock.postgres.pool import Database
from tests.support.brokers import address_of, needs_rabbitmq, rabbitmq_cluster
from tests.support.jobs import JobCaller, finished_job
from tests.support.relays import relay_to
from tests.support.waiting import within

pytestmark = needs_rabbitmq()


async def test_no_event_is_lost_when_the_leader_is_killed(alone: JobCaller, fresh: Database, tmp_path: Path) -> None:
    async with rabbitmq_cluster(tmp_path, "one", "two", "three") as nodes:
        rabbitmq = RabbitMQ(address_of(*nodes))
        relay = relay_to(EventExchange(rabbitmq), fresh)
        await rabbitmq.start()
        await within(rabbitmq.connected.wait())  # to the first node, which leads the queue that is declared through it
        async with rabbitmq.channel() as channel:
            queue = await channel.declare_queue("reader", durable=True, arguments={"x-queue-type": "quorum"})
            await queue.bind(EXCHANGE, "#.job.completed")
        await relay.once()
        running = asyncio.create_task(relay.run())
        wanted = [str(await finished_job(alone)) for _ in range(50)]
        await nodes[0].kill()
        wanted += [str(await finished_job(alone)) for _ in range(50)]
        received: dict[str, None] = {}
        await within(rabbitmq.connected.wait(), 60)
        async with rabbitmq.channel() as channel:
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            await (await channel.get_queue("reader")).consume(inbox.put, no_ack=True)
            while len(received) < len(wanted):
                received[json.loads((await within(inbox.get(), 60)).body)["subject"]] = None
        assert list(received) == wanted
        await relay.stop()
        await running
        await rabbitmq.stop()
