"""Random orders of all that can happen to sessions: no frame reaches another session, and no place stays taken."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress

import pytest

from penstock.errors import ModelCrashed, Overloaded
from penstock.models.host.deployment import Deployment
from penstock.models.host.sessions import SessionOver
from tests.models.test_sessions import KINDS, Chunks, begin, text
from tests.support.models import Models
from tests.support.waiting import until

STEPS = 150
SEED = 0


class Client:
    """One session and what its caller has sent."""

    def __init__(self, models: Models, model: Deployment, name: str) -> None:
        self.name = name
        self.sent: list[str] = []
        self.finished = False
        self.chunks: Chunks
        self.session, self.chunks = begin(models, model, {"greeting": name})

    async def send(self, chance: random.Random) -> None:
        part = f"{self.name}.{len(self.sent)}" + "x" * chance.choice([0, 10, 10_000, 400_000])
        with suppress(SessionOver, TimeoutError):
            async with asyncio.timeout(0.05):  # it may wait for room in a session that has no place
                self.sent.append(part)
                await self.session.send(text(part))
                return
        self.sent.pop()

    def check(self) -> None:
        """The chunks are those of this session, in order."""
        expected = [self.name, *(f"{number} {part}" for number, part in enumerate(self.sent)), "end"]
        found = self.chunks.chunks
        assert found == expected[: len(found)] or (found[-1] == "end" and found[:-1] == expected[: len(found) - 1])

    async def end(self, killed: bool) -> None:
        self.session.finish()
        try:
            await self.session.done
        except ModelCrashed:
            assert killed
        else:
            assert self.chunks.chunks[-1] == "end"
            assert len(self.chunks.chunks) == len(self.sent) + 2
        self.check()
        self.session.close()


@pytest.mark.parametrize("kind", list(KINDS))
async def test_whatever_happens_every_session_ends_and_gets_its_own(models: Models, kind: str) -> None:
    chance = random.Random(SEED)
    stated = dict(KINDS[kind])
    model = await models.serve("echo", stated.pop("code"), replicas=2, timeout=30, **stated)
    clients: list[Client] = []
    killed = False
    for step in range(STEPS):
        match chance.choice(["open", "send", "send", "send", "read", "close", "end", "call", "kill"]):
            case "open" if len(clients) < 12:
                with suppress(Overloaded):
                    clients.append(Client(models, model, f"s{step}"))
            case "send" if clients:
                await chance.choice(clients).send(chance)
            case "read" if clients:
                await asyncio.sleep(0)
            case "close" if clients:
                client = clients.pop(chance.randrange(len(clients)))
                client.check()
                client.session.close()
            case "end" if clients and clients[0].chunks.chunks:  # it has a place
                await clients.pop(0).end(killed)
            case "call":
                call = models.begin(model, {"greeting": "call"})
                if chance.random() < 0.5:
                    call.close()
                else:
                    call.done.add_done_callback(lambda done: done.cancelled() or done.exception())
            case "kill" if chance.random() < 0.3 and model.ready:
                killed = True
                replica = chance.choice(model.replicas)
                if replica.pid is not None:
                    os.kill(replica.pid, signal.SIGKILL)
    for client in clients:
        await client.end(killed)
    await until(lambda: model.in_flight + model.waiting + model.sessions == 0, "every place is free")
    assert models.host._windows.taken == models.host._part_windows.taken == 0
    assert model.metrics.counts().sessions > 0
