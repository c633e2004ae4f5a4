"""A whole Penstock with RabbitMQ and Redis, both of which die under load and come back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock import Client
from penstock.brokers.rabbitmq import RabbitMQ
from tests.support.brokers import Server, address_of, needs_rabbitmq, needs_redis, rabbitmq_server, redis_server
from tests.support.serve import serving
from tests.support.waiting import until, within

pytestmark = [needs_rabbitmq(), needs_redis()]

SOON = timedelta(seconds=90)  # a limit against hanging
APPENDING = '''
import os

class Appending:
    """Appends a line to a file, so that a test can count what was done."""

    def predict(self, path: str, number: int) -> int:
        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\\n" % number)
        return number
'''


@pytest.mark.usefixtures("prepared_data")
async def test_brokers_that_die_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    write_model(tmp_path)
    effects = tmp_path / "effects"
    async with rabbitmq_server(tmp_path / "rabbitmq") as rabbitmq, redis_server(tmp_path / "redis") as redis:
        brokers = {
            "RABBITMQ_HOST": f"127.0.0.1:{rabbitmq.port}",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis.port),
        }
        async with serving(tmp_path, PENSTOCK_MODELS_DIR=str(tmp_path / "models"), **brokers) as served:
            address = f"http://127.0.0.1:{served.port}"
            await until(lambda: all_connected(address), "both brokers are connected")
            await until(lambda: served.log.read_text().count("relay_held") == 2, "events are copied from now on")
            reader = await reading(rabbitmq, "default.job.completed")
            async with Client(address, owner_service="tests") as client:
                jobs = await submit(client, effects, range(100))
                await asyncio.gather(rabbitmq.kill(), redis.kill())
                jobs += await submit(client, effects, range(100, 200))
                done = [await client.wait(job.id, SOON) for job in jobs]
                await asyncio.gather(rabbitmq.start(), redis.start())
                await until(lambda: all_connected(address), "both brokers are used again")
                jobs += await submit(client, effects, range(200, 300))
                done += [await client.wait(job.id, SOON) for job in jobs[200:]]
                again = [(await client.get(job.id)).result for job in jobs]  # from Redis, the second time
                assert [(await client.get(job.id)).result for job in jobs] == again
            assert [job.result for job in done] == again == list(range(300))
            assert Counter(map(int, effects.read_text().split())) == Counter(range(300))
            await reader.has(str(job.id) for job in jobs)
            assert "Traceback" not in served.log.read_text()


def write_model(folder: Path) -> None:
    model = folder / "models" / "appending"
    model.mkdir(parents=True)
    (model / "appending_model.py").write_text(APPENDING)
    (model / "model.toml").write_text('runtime = "python"\n[python]\nclass = "appending_model:Appending"\n')


async def submit(client: Client, effects: Path, numbers: range) -> list[Any]:
    return list(
        await client.submit_many(
            client.job("predict", "appending", {"path": str(effects), "number": number}) for number in numbers
        )
    )


async def all_connected(address: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/readyz") as response:
        return bool((await response.json())["brokers"] == {"rabbitmq": "connected", "redis": "connected"})


class Reader:
    """A program that reads events from a queue of its own, and continues when RabbitMQ is back."""

    def __init__(self, rabbitmq: RabbitMQ) -> None:
        self._rabbitmq = rabbitmq

    async def has(self, subjects: Any) -> None:
        """Wait until the events of all these subjects have arrived."""
        missing = set(subjects)
        await within(self._rabbitmq.connected.wait(), 60)
        async with self._rabbitmq.channel() as channel:
            queue = await channel.get_queue("reader")
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            await queue.consume(inbox.put, no_ack=True)
            while missing:
                missing.discard(json.loads((await within(inbox.get(), 60)).body)["subject"])
        await self._rabbitmq.stop()


async def reading(server: Server, routing_key: str) -> Reader:
    rabbitmq = RabbitMQ(address_of(server))
    await rabbitmq.start()
    await within(rabbitmq.connected.wait())
    async with rabbitmq.channel() as channel:
        queue = await channel.declare_queue("reader", durable=True)
        await queue.bind("penstock.events", routing_key)
    return Reader(rabbitmq)
