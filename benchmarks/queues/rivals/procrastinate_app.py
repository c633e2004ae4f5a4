"""Procrastinate: ``fill N`` defers jobs in bulk, ``work`` runs them; ``app``, under uvicorn, defers one per request."""

import asyncio
import contextlib
import os
import sys
import time

import procrastinate
from fastapi import FastAPI, Request

INPUT = {"text": "x" * 480}
ANSWER = {"content": "y" * 250}

queue = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"], min_size=4, max_size=16)
)


@queue.task(name="noop")
async def noop(text):
    return ANSWER  # it is logged; Procrastinate stores no results


@contextlib.asynccontextmanager
async def lifespan(_app):
    async with queue.open_async():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready():
    return {}


@app.post("/jobs", status_code=201)
async def create(request: Request):
    body = await request.json()
    return {"id": await noop.defer_async(text=body["text"])}


async def fill(jobs):
    async with queue.open_async():
        await queue.schema_manager.apply_schema_async()
        for _ in range(0, jobs, 500):
            await noop.batch_defer_async(*[INPUT] * 500)


async def work():
    async with queue.open_async():
        print("begin", time.time(), flush=True)
        await queue.run_worker_async(concurrency=32, fetch_job_polling_interval=0.5, install_signal_handlers=False)


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work())
