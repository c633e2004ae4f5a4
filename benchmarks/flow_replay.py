"""What it costs to replay a run of 10,000 steps, beside a bare asyncio loop that awaits as many results.

Each round measures both, one after the other; a figure is the median of the rounds' CPU times, or of their ratios.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any, Final
from uuid import UUID

from msgspec import Raw

from benchmarks.figures import Figure
from penstock.flows import flow, run
from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.loop import VERSION
from penstock.flows.kernel.records import History, Mail, MailKind, Status, StoredStep, StoredTurn
from penstock.flows.kernel.resident import Run
from penstock.postgres.embedded import EmbeddedServer

Bare = Callable[[], Coroutine[Any, Any, int]]
_STEPS: Final = 10_000
_ROUNDS: Final = 7
_RESULT: Final = json.dumps({"text": "x" * 280, "words": 40}).encode()  # 300 bytes


@flow(name="sequence", version="1")
async def sequence(count: int) -> int:
    """Awaits one call after another."""
    words = 0
    for number in range(count):
        words += (await run.call("writer", {"number": number, "text": "x" * 280}))["words"]
    return words


@flow(name="together", version="1")
async def together(count: int) -> int:
    """Awaits all calls in one gather."""
    calls = [run.call("writer", {"number": number, "text": "x" * 280}) for number in range(count)]
    return sum(result["words"] for result in await run.gather(*calls))


async def run_scenario(_server: EmbeddedServer) -> list[Figure]:
    """Measure both flows, in a thread without a loop."""
    return await asyncio.to_thread(
        lambda: (
            _compared(sequence, _bare_sequence, "in sequence") + _compared(together, _bare_together, "in one gather")
        )
    )


def _compared(code: Flow[..., Any], bare: Bare, name: str) -> list[Figure]:
    history = recorded(code)
    rounds = [(_cpu(lambda: replayed(code, history)), _cpu(lambda: asyncio.run(bare()))) for _ in range(_ROUNDS)]
    ratio = median(ours / theirs for ours, theirs in rounds)
    return [
        Figure(
            scenario=f"replay 10,000 steps {name}",
            value=median(ours for ours, _ in rounds),
            unit="s of CPU",
            promise=1.0,
            at_most=True,
            note=f"{ratio:.1f} times a bare loop that encodes and decodes the same JSON",
        )
    ]


def recorded(code: Flow[..., Any]) -> History:
    """Return the history of a run, made by the kernel."""
    empty = History(
        run_id=UUID(int=1), flow=code.name, version=code.version, loop=VERSION, input=Raw(b'{"count":%d}' % _STEPS),
        started_at=1.0, turns=[], steps=[], mail=[],
    )  # fmt: skip
    resident = Run(code, empty)
    resident.begin([])
    turns: list[StoredTurn] = []
    steps: list[StoredStep] = []
    consumed: list[Mail] = []
    while True:
        turn = resident.turn()
        turns.append(StoredTurn(number=turn.number, at=1.0, taken=turn.taken, first_no=turn.first_no))
        steps += [
            StoredStep(
                no=one.no, key=one.key, kind=one.kind, name=one.name, input_hash=one.input_hash, target=one.target
            )
            for one in turn.steps
        ]
        if turn.outcome is not None:
            break
        mail = [
            Mail(
                id=one.no + 1, kind=MailKind.ENDED, at=1.0 + one.no, no=one.no, status=Status.COMPLETED,
                value=Raw(_RESULT),
            )
            for one in turn.steps
        ]  # fmt: skip
        consumed += mail
        resident.deliver(mail)
    return History(
        run_id=empty.run_id, flow=empty.flow, version=empty.version, loop=VERSION, input=empty.input, started_at=1.0,
        turns=turns, steps=steps, mail=consumed,
    )  # fmt: skip


def replayed(code: Flow[..., Any], history: History) -> None:
    """Replay a run that has ended."""
    resident = Run(code, history)
    resident.repeat()
    if resident.outcome is None:
        raise RuntimeError("the run was not repeated")


async def _bare_sequence() -> int:
    loop = asyncio.get_running_loop()
    words = 0
    for number in range(_STEPS):
        words += (await _result(loop, number))["words"]
    return words


async def _bare_together() -> int:
    loop = asyncio.get_running_loop()
    return sum(one["words"] for one in await asyncio.gather(*(_result(loop, number) for number in range(_STEPS))))


async def _result(loop: asyncio.AbstractEventLoop, number: int) -> Any:
    json.dumps({"number": number, "text": "x" * 280})
    future: asyncio.Future[bytes] = loop.create_future()
    loop.call_soon(future.set_result, _RESULT)
    return json.loads(await future)


def _cpu(measured: Callable[[], object]) -> float:
    before = time.thread_time()
    measured()
    return time.thread_time() - before
