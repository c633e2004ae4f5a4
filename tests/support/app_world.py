"""An app with the servers that it uses: RabbitMQ, Redis, S3, the marketplace, and a client with a callback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import redis.asyncio

from tests.support.app_serve import ServedSounds, serving_sounds
from tests.support.brokers import Server, rabbitmq_server, redis_server
from tests.support.callbacks import Receiver, receiver
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Proxy, S3Server, s3_proxy, s3_server

MARKETPLACE_TOKEN = "the-token-of-the-marketplace"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The app and the servers that it uses. Requests of the app to S3 pass through the proxy ``bucket``."""

    app: ServedSounds
    rabbitmq: Server
    cache: Server
    s3: S3Server
    bucket: S3Proxy
    redis: redis.asyncio.Redis
    marketplace: Receiver
    client: Receiver

    async def objects(self) -> list[str]:
        """Return the keys in the bucket."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.s3.address}/media?list-type=2") as response:
            text = await response.text()
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]

    async def kept_for(self, job_id: str) -> float:
        """Return for how many more seconds Redis keeps the result of a job; -2 if it does not have it."""
        name = job_id.replace("-", "")
        keys = [key async for key in self.redis.scan_iter(f"penstock:job:*:{name}")]
        return float(await self.redis.ttl(keys[0])) if keys else -2.0

    async def result(self, task_id: str) -> dict[str, Any]:
        reply = await self.app.get("app", f"/result/{task_id}")
        assert reply.status == 200
        found: dict[str, Any] = reply.json
        return found


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        rabbitmq = await stack.enter_async_context(rabbitmq_server(folder / "rabbitmq"))
        cache = await stack.enter_async_context(redis_server(folder / "redis"))
        s3 = await stack.enter_async_context(s3_server(folder))
        await s3.bucket("media")
        bucket = await stack.enter_async_context(s3_proxy(s3))
        marketplace = await stack.enter_async_context(receiver())
        client = await stack.enter_async_context(receiver())
        app = await stack.enter_async_context(
            serving_sounds(
                folder,
                RABBITMQ_HOST="127.0.0.1",
                RABBITMQ_PORT=str(rabbitmq.port),
                REDIS_HOST="127.0.0.1",
                REDIS_PORT=str(cache.port),
                PENSTOCK_BLOB_URL="s3://media/results",
                PENSTOCK_BLOB_ENDPOINT=bucket.address,
                PENSTOCK_BLOB_INLINE_BYTES="0",
                PENSTOCK_RESULT_MEDIA_BYTES="1024",
                AWS_ACCESS_KEY=ACCESS_KEY,
                AWS_SECRET_KEY=SECRET_KEY,
                AWS_REGION_NAME="us-east-1",
                MARKETPLACE_CALLBACK=f"{marketplace.url}/results",
                MARKETPLACE_TOKEN=MARKETPLACE_TOKEN,
                PENSTOCK_FETCH_NETWORKS="127.0.0.0/8",
            )
        )
        connection = redis.asyncio.Redis(port=cache.port)
        stack.push_async_callback(connection.aclose)
        yield World(
            app=app,
            rabbitmq=rabbitmq,
            cache=cache,
            s3=s3,
            bucket=bucket,
            redis=connection,
            marketplace=marketplace,
            client=client,
        )


async def downloaded(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.read()
