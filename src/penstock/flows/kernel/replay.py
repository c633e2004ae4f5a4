"""Check that code repeats a stored run: its whole history, and every beginning of it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.flows.kernel.declaration import Flow
from penstock.flows.kernel.records import Held, History, Mail, Outcome, StoredStep, Turn
from penstock.flows.kernel.resident import Run

_MAX_WORK: Final = (
    400_000  # about how many steps and turns to replay; of long histories only some beginnings, evenly spread
)


class Replayed(Struct, frozen=True, kw_only=True):
    """The result of replaying a history."""

    held: Held | None  # why the code cannot continue this run; None if it can
    outcome: Outcome | None  # how the code ends after the last turn; None while it waits
    changed_inputs: list[str]  # keys of steps whose input has changed; their stored results are used


def replay(flow: Flow[..., Any], history: History, *, ended: bool = False, strict: bool = False) -> Replayed:
    """Replay a history; ``ended`` if the run ended with its last turn.

    Then replay its beginnings, and let the code make the turn that follows each: it must be the stored one, unless
    the code takes a new path there (``patched``). ``strict`` makes a changed input a mismatch. Nothing is executed:
    recorded functions are not called.
    """
    run = Run(flow, history, effects=False, strict=strict)
    run.repeat()
    if run.ledger.held is None and run.outcome is not None and not ended:
        run.ledger.hold_changed("ended the run")
    held, outcome, changed = run.ledger.held, run.outcome, run.ledger.changed_inputs
    run.unwind()
    for number in _beginnings(history):
        if held is not None:
            break
        held = _differs(flow, history, number, strict=strict)
    return Replayed(held=held, outcome=outcome, changed_inputs=changed)


def _differs(flow: Flow[..., Any], history: History, number: int, *, strict: bool) -> Held | None:
    """Replay the turns before this number; return how the turn that the code then makes differs from the stored one."""
    stored = history.turns[number]
    mail = {one.id: one for one in history.mail}
    run = Run(flow, _beginning(history, number, mail), effects=False, strict=strict)
    run.begin([mail[one] for one in stored.taken])
    turn = run.turn()
    run.unwind()
    if isinstance(turn.outcome, Held):
        return turn.outcome
    if turn.patched != stored.patched:
        return None
    end = history.turns[number + 1].first_no if number + 1 < len(history.turns) else len(history.steps)
    return _compared(history.steps[stored.first_no : end], turn)


def _compared(steps: list[StoredStep], turn: Turn) -> Held | None:
    found = [(step.no, step.key, step.kind, step.name) for step in turn.steps]
    expected = [(step.no, step.key, step.kind, step.name) for step in steps]
    if found == expected:
        return None
    place = next((i for i, (one, two) in enumerate(zip(found, expected, strict=False)) if one != two), None)
    place = min(len(found), len(expected)) if place is None else place
    stored = expected[place][1] if place < len(expected) else "no further step"
    other = found[place][1] if place < len(found) else "no further step"
    return Held(
        reason="changed",
        message=f"after turn {turn.number - 1} the history continues with {stored}, but the code with {other}: "
        "it depends on something outside the history",
        no=turn.first_no + place,
        stored=stored,
        found=other,
    )


def _beginning(history: History, number: int, mail: dict[int, Mail]) -> History:
    turns = history.turns[:number]
    return msgspec.structs.replace(
        history,
        turns=turns,
        steps=history.steps[: history.turns[number].first_no],
        mail=[mail[one] for turn in turns for one in turn.taken],
    )


def _beginnings(history: History) -> list[int]:
    turns = len(history.turns)
    count = min(turns, max(5, _MAX_WORK // (1 + turns + len(history.steps))))
    return [index * turns // count for index in range(count)]
