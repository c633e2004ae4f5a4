"""How the code of a run has ended."""

from __future__ import annotations

from asyncio import CancelledError, Task

from msgspec import Raw

from penstock.flows.kernel.errors import fault_of, stack_of
from penstock.flows.kernel.records import Cancelled, Completed, Failed, Fault, Outcome


def outcome_of(main: Task[bytes], *, cancelled: bool, reason: Fault | None = None) -> Outcome:
    """Return the outcome of a run whose main task is done; ``cancelled`` means that it has received a cancellation, and
    ``reason`` why, if the run then fails."""
    if main.cancelled():
        if cancelled and reason is not None:
            return Failed(fault=reason)
        if cancelled:
            return Cancelled()
        error: BaseException = CancelledError("the code cancelled itself without a request")
    else:
        found = main.exception()
        if found is None:
            return Completed(result=Raw(main.result()))
        error = found
    fault = fault_of(error)
    if isinstance(error, SystemExit):
        fault = Fault(category=fault.category, message="the code called sys.exit", type=fault.type)
    return Failed(fault=fault, stack=stack_of(error))
