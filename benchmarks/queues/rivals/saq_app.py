"""SAQ on PostgreSQL: ``fill N`` enqueues jobs, ``work`` runs them."""

import asyncio
import os
import sys
import time

from saq import Job, Queue, Worker

INPUT = "x" * 480


async def noop(_context, *, text):
    return {"content": "y" * 250}


async def fill(jobs):
    queue = Queue.from_url(os.environ["DATABASE_URL"])
    await queue.connect()
    for _ in range(0, jobs, 16):
        await asyncio.gather(*(queue.enqueue(Job("noop", kwargs={"text": INPUT}, ttl=3600)) for _ in range(16)))
    await queue.disconnect()


async def work():
    queue = Queue.from_url(os.environ["DATABASE_URL"])
    await queue.connect()
    worker = Worker(queue, functions=[noop], concurrency=64)
    print("begin", time.time(), flush=True)
    await worker.start()


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work())
