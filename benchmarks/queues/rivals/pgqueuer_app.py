"""PgQueuer: ``fill N`` enqueues jobs in bulk, ``work MANAGERS`` runs them, with a connection for each manager."""

import asyncio
import json
import os
import sys
import time

import asyncpg
import uvloop
from pgqueuer import QueueManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

INPUT = json.dumps({"text": "x" * 480}).encode()
BATCH = 200


async def fill(jobs):
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    for _ in range(0, jobs, 1000):
        await queries.enqueue(["noop"] * 1000, [INPUT] * 1000, [0] * 1000)
    await connection.close()


async def manager():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    made = QueueManager(Queries(AsyncpgDriver(connection)))

    @made.entrypoint("noop")
    async def noop(_job):
        return {"content": "y" * 250}  # PgQueuer stores no results

    return made


async def work(managers):
    made = [await manager() for _ in range(managers)]
    print("begin", time.time(), flush=True)
    await asyncio.gather(*(one.run(batch_size=BATCH) for one in made))


if __name__ == "__main__":
    uvloop.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work(int(sys.argv[2])))
