"""Errors of flow code, and how an exception becomes the fault of a run."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Final

from msgspec import structs

from penstock.failures import CallFailed, Category
from penstock.flows.kernel import origins
from penstock.flows.kernel.records import Fault, Status
from penstock.models.replica.contract.context import BadInput
from penstock.models.replica.errors import described, plain, shortened, text_of

_MAX_FRAMES: Final = 20
# Categories that would make the rules for jobs cancel or retry the run itself, when only one of its steps has failed.
_OF_STEPS_ONLY: Final = frozenset(
    {Category.CANCELLED, Category.SHUTDOWN, Category.RATE_LIMITED, Category.WORKER_LOST, Category.EXPIRED}
)


class StepFailed(Exception):
    """A step has ended without a result: all attempts of its job have failed, or its function raised an exception.

    ``type`` is the name of the exception's class where the step was a function of the flow.
    """

    def __init__(self, message: str, *, step: str, category: Category = Category.INTERNAL, type: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.message = message
        self.step = step  # the key of the step
        self.category = category
        self.type = type

    def __str__(self) -> str:
        return f"step {self.step}: {self.message}"


class StepCancelled(StepFailed):
    """The job of a step was cancelled, and not by the flow itself."""


class FlowError(RuntimeError):
    """Flow code has used the functions of flows in a way that is not allowed."""


class Stopped(BaseException):
    """The run does not continue in this process: it is held or evicted. Not an ``Exception``, so that flow code which
    catches those does not continue."""


def of_end(status: Status | None, fault: Fault | None, step: str) -> StepFailed:
    """Return the exception that flow code receives for a step that has ended without a result."""
    kind = StepCancelled if status is Status.CANCELLED else StepFailed
    if fault is None:
        category = Category.CANCELLED if status is Status.CANCELLED else Category.INTERNAL
        return kind("it was cancelled" if status is Status.CANCELLED else "it failed", step=step, category=category)
    return kind(fault.message, step=step, category=fault.category, type=fault.type)


def fault_of(error: BaseException) -> Fault:
    """Return the fault of a run or of a recorded function whose code has raised ``error``."""
    fault = _fault_of(error)
    return fault if "\0" not in fault.message else structs.replace(fault, message=_storable(fault.message))


def _fault_of(error: BaseException) -> Fault:
    name = type(error).__name__
    match error:
        case StepFailed():
            category = Category.INTERNAL if error.category in _OF_STEPS_ONLY else error.category
            return Fault(category=category, message=shortened(text_of(error)), type=name)
        case BadInput() | CallFailed():
            category = Category.BAD_INPUT if isinstance(error, BadInput) else error.category
            place = f"{error.field}: " if error.field else ""
            return Fault(category=category, message=shortened(place + text_of(error.message)), type=name)
        case TimeoutError():
            return Fault(category=Category.TIMEOUT, message=text_of(error) or "it took too long", type=name)
    return Fault(category=Category.INTERNAL, message=described(error), type=name)


def stack_of(error: BaseException) -> str:
    """Return the frames of flow code in an exception's traceback, innermost last: the last 20 of them."""
    try:
        frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
        lines = [
            f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line or ''}".rstrip(": ")
            for frame in frames
            if origins.is_flow_code(frame.filename)
        ]
    except Exception:  # noqa: BLE001  (the source may have changed or gone)
        return ""
    return _storable(plain("\n".join(line[:500] for line in lines[-_MAX_FRAMES:])))


def _storable(text: str) -> str:
    """Return a text without NUL, which the database cannot hold."""
    return text.replace("\0", "\ufffd")
