"""Housekeepers are killed while they send: nothing is lost, and what is sent again has the id that it had."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from aiohttp import web

from penstock.postgres.pool import Database
from tests.support.callbacks import Callbacks, Message, Receiver
from tests.support.databases import query
from tests.support.jobs import JobCaller
from tests.support.processes import clean_environment, penstock
from tests.support.waiting import until

KILLS = 4
JOBS = 120


class Housekeepers:
    """Two processes ``penstock housekeeper``; one that is killed is started again."""

    def __init__(self, url: str, folder: Path) -> None:
        self._environment = clean_environment(
            DATABASE_URL=url, PENSTOCK_DATA_DIR=str(folder), PENSTOCK_FETCH_NETWORKS="127.0.0.0/8"
        )
        self._folder = folder
        self._stack = AsyncExitStack()
        self._running: list[asyncio.subprocess.Process] = []
        self.killed = 0

    async def __aenter__(self) -> Self:
        for _ in range(2):
            await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        log = self._folder / "housekeepers.log"
        process = penstock("housekeeper", environment=self._environment, folder=self._folder, log=log)
        self._running.append(await self._stack.enter_async_context(process))

    def kill_both(self) -> None:
        """Send SIGKILL, with requests in flight."""
        for process in self._running:
            process.kill()
        self.killed += 1

    async def start_again(self) -> None:
        killed, self._running = self._running, []
        for process in killed:
            await process.wait()
            await self._start()


async def test_killed_housekeepers_lose_nothing(
    database: Database, caller: JobCaller, callbacks: Callbacks, hook: Receiver, tmp_path: Path
) -> None:
    """They die before a receiver has responded, or just after: between its 2xx and the transaction that records it.

    Those that are started next find the endpoints at once: no lease has to expire.
    """
    endpoint = await callbacks.add(caller.tenant, hook.url, "job.created", "job.started", "job.completed")
    dead = asyncio.Event()

    async def respond(_: Message) -> web.Response:
        due = len(hook.messages) % 50 == 25 and keepers.killed < KILLS and not dead.is_set()
        if due and keepers.killed % 2:
            keepers.kill_both()
            dead.set()
        elif due:
            asyncio.get_running_loop().call_soon(keepers.kill_both)
            dead.set()
        return web.Response()

    hook.respond = respond
    async with Housekeepers(database.url, tmp_path) as keepers:
        for _ in range(JOBS // 10):
            await caller.submit_many(10)
            for job in await caller.claim(10):
                await caller.complete(job)
        for _ in range(KILLS):
            await until(dead.is_set, "a housekeeper sends, and is killed")
            await keepers.start_again()
            dead.clear()

        async def all_delivered() -> bool:
            return (await callbacks.endpoint(caller.tenant, endpoint)).delivered == 3 * JOBS

        await until(all_delivered, "every event is delivered", seconds=90)
    assert keepers.killed == KILLS
    bodies: dict[str, set[bytes]] = {}
    first_seen: dict[str, list[str]] = {}
    for message in hook.messages:
        message.verify(endpoint.secret)
        if message.id not in bodies:
            first_seen.setdefault(message.event["subject"], []).append(message.event["type"])
        bodies.setdefault(message.id, set()).add(message.body)
    assert len(bodies) == 3 * JOBS, "each event has one id, however often it was sent"
    assert all(len(same) == 1 for same in bodies.values())
    assert all(types == ["job.created", "job.started", "job.completed"] for types in first_seen.values())
    assert len(hook.messages) > 3 * JOBS, "something was in flight when they were killed"
    left = "SELECT (SELECT count(*) FROM callback_ready) + (SELECT count(*) FROM callback_later)"
    assert await query(database, left) == [(0,)]
