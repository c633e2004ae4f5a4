"""Calls that cannot be interrupted: what becomes of their replica, and of the other calls in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from tests.support.models import model_host, read
from tests.support.waiting import until

ECHO = """
class Model:
    def predict(self, text: str) -> str:
        return text
"""

BLOCKED = """
import os, time

class Model:
    def predict(self, gate: str = "", begun: str = "", text: str = "") -> str:
        if begun:
            open(begun, "w").close()
        while gate and not os.path.exists(gate):
            time.sleep(0.002)
        if text == "block":
            time.sleep(60)  # Python cannot interrupt it
        return text
"""

BLOCKED_LOOP = """
import asyncio, os, time

class Model:
    async def predict(self, begun: str = "", text: str = "") -> str:
        if begun:
            open(begun, "w").close()
        if text == "block":
            time.sleep(60)
        if text == "wait" and not os.path.exists(begun + ".again"):
            open(begun + ".again", "w").close()
            await asyncio.sleep(60)
        return text
"""


async def begun(path: Path) -> None:
    await until(path.exists, "the call has begun")


async def test_a_replica_with_a_blocked_call_is_replaced_when_others_wait(tmp_path: Path) -> None:
    """The caller has gone, the call does not return: after the grace the next caller gets a new replica."""
    async with model_host(tmp_path, cancel_grace=timedelta(seconds=0.2)) as models:
        model = await models.serve("blocked", BLOCKED, timeout=60)
        await models.call(model, {"text": "load"})
        before = model.replicas[0]
        running = models.begin(model, {"text": "block", "begun": str(tmp_path / "begun")})
        await begun(tmp_path / "begun")
        running.close()
        async with asyncio.timeout(20):
            assert await models.call(model, {"text": "next"}) == "next"
        assert model.replicas[0] is not before
        assert before.end_reason == "a call whose caller had gone did not stop within 0.2 s"


async def test_a_replica_with_a_blocked_call_is_left_alone_while_no_call_waits(tmp_path: Path) -> None:
    """The replica keeps what it has loaded; the manifest's own grace applies."""
    async with model_host(tmp_path, cancel_grace=timedelta(seconds=60)) as models:
        model = await models.serve("blocked", BLOCKED, timeout=60, cancel_grace=0.05)
        await models.call(model, {"text": "load"})
        before = model.replicas[0]
        running = models.begin(model, {"text": "block", "begun": str(tmp_path / "begun")})
        await begun(tmp_path / "begun")
        running.close()
        other = await models.serve("other", ECHO)  # takes longer than the grace and a check of all replicas
        await models.call(other, {"text": "x"})
        assert before.state == "ready"
        async with asyncio.timeout(20):
            assert await models.call(model, {"text": "next"}) == "next"
        assert before.state == "dead"


async def test_a_call_that_runs_beside_a_blocked_one_is_not_disturbed(tmp_path: Path) -> None:
    """A replica for two calls continues with one place until only the blocked call is left."""
    async with model_host(tmp_path, cancel_grace=timedelta(seconds=0.1)) as models:
        model = await models.serve("blocked", BLOCKED, timeout=60, concurrency=2, retry=False)
        await models.call(model, {"text": "load"})
        before = model.replicas[0]
        blocked = models.begin(model, {"text": "block", "begun": str(tmp_path / "one")})
        gate = tmp_path / "gate"
        beside = models.begin(model, {"text": "beside", "begun": str(tmp_path / "two"), "gate": str(gate)})
        await begun(tmp_path / "one")
        await begun(tmp_path / "two")
        blocked.close()
        waiting = models.begin(model, {"text": "waiting"})
        await until(lambda: before.pinged_at > 0 and before.ponged_at >= before.pinged_at, "it was checked")
        assert before.state == "ready"
        gate.touch()
        assert read(await beside.done) == "beside"
        assert read(await waiting.done) == "waiting"


async def test_a_blocked_event_loop_costs_its_replica_and_no_other_call(tmp_path: Path) -> None:
    """The other call, which could not progress, runs again in the new replica and does not count as the cause."""
    async with model_host(tmp_path, cancel_grace=timedelta(seconds=0.2)) as models:
        model = await models.serve("loop", BLOCKED_LOOP, timeout=60, concurrency=2)
        await models.call(model, {"text": "load"})
        before = model.replicas[0]
        beside = models.begin(model, {"text": "wait", "begun": str(tmp_path / "one")})
        await begun(tmp_path / "one")
        blocked = models.begin(model, {"text": "block", "begun": str(tmp_path / "two")})
        await begun(tmp_path / "two")
        blocked.close()
        waiting = models.begin(model, {"text": "waiting"})
        async with asyncio.timeout(20):
            assert read(await waiting.done) == "waiting"
            assert read(await beside.done) == "wait"
        assert model.replicas[0] is not before
        assert beside.attempts == 0
