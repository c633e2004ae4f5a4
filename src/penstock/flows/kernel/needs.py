"""Which mail a run waits for, derived from its open steps."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Iterable
from typing import Any, Final

from penstock.flows.kernel.records import StepKind
from penstock.flows.kernel.steps import Handle

Open = Iterable[Handle[Any] | TimerHandle]

_ENDING: Final = frozenset({StepKind.CALL, StepKind.MAP, StepKind.EVENT, StepKind.RECORD})
_SOON: Final = 64  # child jobs of a map that are expected to end soon


def need(steps: Open) -> int:
    """Return how many steps have to end, at least, before the code can continue."""
    least: int | None = None
    for step in steps:
        if not isinstance(step, Handle) or step.kind not in _ENDING:
            continue
        waiters = step.waiters
        if waiters == 1 and step.group is not None:
            least = step.group.left if least is None else min(least, step.group.left)
        elif waiters:
            return 1
    return max(1, least or 1)


def expects_mail_soon(steps: Open) -> bool:
    """Return whether the next mail is expected soon: the end of a call or of a small map."""
    return any(
        isinstance(one, Handle)
        and (one.kind in {StepKind.CALL, StepKind.RECORD} or (one.kind is StepKind.MAP and one.size <= _SOON))
        for one in steps
    )


def can_go_on(steps: Open) -> bool:
    """Return whether any task waits for a step or a timer."""
    return any(isinstance(one, TimerHandle) or one.waiters for one in steps)
