"""The examples of docs/flows.md: they load, and do what the text says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.flows.kernel.records import StepKind, Turn
from penstock.flows.process.flow_process import FlowProcess
from tests.flows.conftest import Start, Write
from tests.support.flow_stores import StoredRun, fault

GUIDE = Path(__file__).parents[2] / "docs" / "flows.md"
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL))


@pytest.fixture
async def process(start: Start, write: Write) -> FlowProcess:
    for name, text in FILES.items():
        write(name, text)
    process = await start()
    assert process.problems == {}
    return process


class Story:
    """One run of an example."""

    def __init__(self, process: FlowProcess, flow: str, **values: Any) -> None:
        self.run = StoredRun(flow, values)
        self._process = process

    async def turn(self) -> Turn:
        """Begin the run from its history each time, as another process would."""
        turn = await self._process.begin(self.run.history(), self.run.unread)
        self.run.commit(turn)
        return turn

    def called(self, name: str) -> Any:
        """Return the input of the only open call of this name."""
        (step,) = [one for one in self.run.open(StepKind.CALL) if one.name == name]
        assert step.input is not None
        return json.loads(bytes(step.input))

    def end(self, name: str, value: Any) -> None:
        """Complete the open calls of this name; an exception is their failure."""
        for step in [one for one in self.run.open(StepKind.CALL) if one.name == name]:
            if isinstance(value, Exception):
                self.run.fail(step.no, fault(str(value)))
            else:
                self.run.complete(step.no, value)

    async def settled(self) -> Any:
        """Make turns while there is mail; return the result."""
        while self.run.unread or not self.run.turns:
            await self.turn()
        outcome: Any = self.run.outcome
        return json.loads(bytes(outcome.result)) if outcome is not None and hasattr(outcome, "result") else outcome


def test_all_code_of_the_guide_is_in_files() -> None:
    assert len(FILES) == GUIDE.read_text().count("```python")


async def test_a_first_flow(process: FlowProcess) -> None:
    story = Story(process, "podcast", topic="big dams")
    await story.turn()
    assert story.called("outliner") == {"topic": "big dams", "chapters": 2}
    story.end("outliner", ["Rain", "Rivers"])
    await story.turn()
    assert story.run.keys()[1:] == ["writer#1", "writer#2"]
    assert story.run.last is not None
    assert story.run.last.need == 2, "a gather wakes the run once"
    story.end("writer", "text")
    await story.turn()
    assert story.called("speaker") == {"text": "text\ntext"}
    story.end("speaker", "sound")
    assert await story.settled() == {"title": "Big Dams", "audio": "sound"}


async def test_the_first_opinion_wins(process: FlowProcess) -> None:
    story = Story(process, "review", text="t")
    await story.turn()
    assert {step.target.max_attempts for step in story.run.steps if step.target is not None} == {5}
    story.end("other-critic", "good")
    turn = await story.turn()
    assert [story.run.step(no).name for no in turn.dropped] == ["critic"]
    assert turn.outcome is not None
    assert story.run.steps[-1].kind is StepKind.PUBLISH
    failing = Story(process, "review", text="t")
    await failing.turn()
    failing.end("critic", ValueError("busy"))
    assert await failing.settled() == "no opinion: busy"


async def test_an_approval_is_reminded_of_and_expires(process: FlowProcess) -> None:
    reminded = Story(process, "approval", draft="d")
    await reminded.turn()
    week, days = (step for step in reminded.run.steps if step.kind is StepKind.TIMER)
    assert (week.due or 0) - (days.due or 0) == 5 * 24 * 3600
    reminded.run.fire(days.no)
    await reminded.turn()
    assert reminded.called("mailer") == {"text": "Please decide: d"}
    reminded.run.signal("decision", {"verdict": "yes"})
    reminded.end("mailer", None)
    await reminded.turn()
    (hour,) = reminded.run.open(StepKind.TIMER)
    reminded.run.fire(hour.no)
    assert await reminded.settled() == "yes"
    expired = Story(process, "approval", draft="d")
    await expired.turn()
    expired.run.fire(0)
    assert await expired.settled() == "expired"


async def test_an_order_is_paid_back(process: FlowProcess) -> None:
    story = Story(process, "order", amount=10.0)
    assert await story.settled() is None
    assert story.called("payments") == {"pay": 11.0}
    assert [step.key for step in story.run.steps] == [
        "exchange_rate#1", "region#1", "refund#1", "payment",
    ]  # fmt: skip
    story.end("payments", {"id": 7})
    await story.turn()
    assert story.called("shipping") == {"to": "somewhere"}
    story.end("shipping", ValueError("no stock"))
    await story.turn()
    assert story.called("payments") == {"refund": 7}
    story.end("payments", None)
    outcome = await story.settled()
    assert outcome.fault.message == "step shipping#1: no stock"


async def test_a_patch_is_for_runs_that_have_not_passed_it(process: FlowProcess) -> None:
    story = Story(process, "greeting", name="Ada")
    await story.turn()
    story.end("greeter", "hello")
    assert (await story.turn()).patched == ["translate"]
    story.end("translator", "bonjour")
    assert await story.settled() == "bonjour"
