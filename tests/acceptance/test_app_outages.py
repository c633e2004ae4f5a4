"""Every store of an app fails in turn, under load: nothing is lost, and each result reaches the marketplace once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.support.app_serve import ServedSounds
from tests.support.app_world import World, downloaded, world
from tests.support.brokers import needs_rabbitmq, needs_redis
from tests.support.waiting import until

pytestmark = [needs_rabbitmq(), needs_redis(), pytest.mark.timeout(400)]

LOAD = 8  # requests before each failure, and again while it lasts


@pytest.mark.usefixtures("prepared_data")
async def test_stores_that_fail_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as around:
        requests: dict[str, str] = {}  # ids of requests, by their idempotency keys
        for name, (fail, mend) in failures(around).items():
            requests |= await load(around.app, f"before {name}")
            await fail()
            during = asyncio.create_task(load(around.app, f"without {name}"))
            await asyncio.wait([during], timeout=1)  # without PostgreSQL it ends only later
            await mend()
            requests |= await during
        for task_id in requests.values():
            await until(lambda task_id=task_id: _completed(around, task_id), "the request has ended", seconds=120)  # type: ignore[misc]
            (media,) = (await around.result(task_id))["media"]
            assert (await downloaded(media["url"])).startswith(b"sound of ")
        assert len(set(requests.values())) == len(requests)
        await until(lambda: set(sent(around)) == set(requests.values()), "the marketplace has every result")
        assert set(sent(around).values()) == {1}, "one message each, whose id is the same if it is sent again"


def failures(around: World) -> dict[str, tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]:
    """Return the functions that break and repair each store."""

    async def kill_postgres() -> None:
        os.kill(around.app.parts()["postgres"], signal.SIGKILL)

    async def is_restarted() -> None:
        await until(around.app.ready, "the supervisor has started PostgreSQL again")

    async def break_s3() -> None:
        around.bucket.fault = lambda _request: 503

    async def mend_s3() -> None:
        around.bucket.fault = lambda _request: None

    return {
        "RabbitMQ": (around.rabbitmq.kill, around.rabbitmq.start),
        "Redis": (around.cache.kill, around.cache.start),
        "S3": (break_s3, mend_s3),
        "PostgreSQL": (kill_postgres, is_restarted),
    }


async def load(app: ServedSounds, name: str) -> dict[str, str]:
    """Make requests, each again until it is accepted, as a client with idempotency keys does."""
    keys = [f"{name} {number}" for number in range(LOAD)]
    return dict(zip(keys, await asyncio.gather(*(request(app, key) for key in keys)), strict=True))


async def request(app: ServedSounds, key: str) -> str:
    body = {"user_id": "ada", "input": {"text": key}, "idempotency_key": key}
    while True:
        try:
            reply = await app.call("app", "POST", "/call", body)
        except aiohttp.ClientError:
            continue
        if reply.status == 202:
            return str(reply.json["task_id"])
        assert reply.status == 503, reply
        await asyncio.sleep(0.1)


async def _completed(around: World, task_id: str) -> bool:
    status = (await around.result(task_id))["status"]
    assert status not in {"failed", "cancelled"}
    return bool(status == "completed")


def sent(around: World) -> Counter[str]:
    """Return the messages of each request; those with the same id are one."""
    return Counter(task_id for _, task_id in {(one.id, one.event["task_id"]) for one in around.marketplace.messages})
