"""The process that runs flow code, as the runner uses it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from penstock.flows.kernel.records import Completed
from penstock.flows.process.errors import NotResident, UnknownFlow
from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.process.program import Limits
from tests.support.flow_stores import StoredRun, complete_all

GREETING = """
import asyncio
from penstock.flows import flow, run

@flow(name="greeting", version="1")
async def greeting(name: str) -> str:
    "Greets."
    text = await run.call("greeter", {"name": name})
    later = await run.side_effect(asyncio.sleep, 0, "later")
    return f"{text}, {later}"
"""


class Start(Protocol):
    async def __call__(self, *, limits: Limits | None = None) -> FlowProcess: ...


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(*, limits: Limits | None = None) -> FlowProcess:
            process = FlowProcess(tmp_path, ours=os.environ, private=frozenset({"DATABASE_URL"}), limits=limits)
            stack.push_async_callback(process.stop)
            await process.start()
            return process

        yield started


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    def written(file: str, text: str) -> None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)

    return written


async def test_a_run_begins_and_gets_its_mail(start: Start, write: Callable[[str, str], None]) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    assert run.keys() == ["greeter#1"]
    complete_all(run, lambda _step: "hello")
    while run.outcome is None:
        run.commit(await process.deliver(run.run_id, run.unread))
    assert isinstance(run.outcome, Completed)
    assert bytes(run.outcome.result) == b'"hello, later"'
    assert run.run_id not in process.resident


async def test_flows_are_described(start: Start, write: Callable[[str, str], None]) -> None:
    write("greeting.py", GREETING)
    process = await start()
    (described,) = process.flows.values()
    assert (described.name, described.version, described.description) == ("greeting", "1", "Greets.")
    assert described.input["required"] == ["name"]
    assert described.output == {"type": "string"}


async def test_an_evicted_run_begins_again_from_its_history(start: Start, write: Callable[[str, str], None]) -> None:
    write("greeting.py", GREETING)
    process = await start()
    run = StoredRun("greeting", {"name": "Ada"})
    run.commit(await process.begin(run.history()))
    process.evict(run.run_id)
    complete_all(run, lambda _step: "hello")
    with pytest.raises(NotResident):
        await process.deliver(run.run_id, run.unread)
    run.commit(await process.begin(run.history(), run.unread))
    assert run.keys() == ["greeter#1", "sleep#1"]


async def test_an_unknown_flow_is_refused(start: Start) -> None:
    process = await start()
    with pytest.raises(UnknownFlow, match="no file has flow missing version 1"):
        await process.begin(StoredRun("missing", {}).history())
