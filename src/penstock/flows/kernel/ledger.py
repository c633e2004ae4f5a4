"""The steps of one run: those in its history, which the code must issue again, and those that it adds."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from penstock.failures import Category
from penstock.flows.kernel.errors import FlowError, Stopped
from penstock.flows.kernel.loop import FlowLoop
from penstock.flows.kernel.records import Fault, Held, History, Recorded, Step, StepKind, StoredStep, Target
from penstock.flows.kernel.targets import checked_key, checked_name, described
from penstock.flows.kernel.values import digest

MAX_TURN_BYTES: Final = 64 * 2**20  # of the steps of one turn
_STEP_BYTES: Final = 300  # approximate size of a step beside its values
_MAX_WARNINGS: Final = 20  # of one turn


class Draft:
    """What the turn in progress has done so far."""

    def __init__(self, first_no: int) -> None:
        self.first_no = first_no
        self.taken: list[int] = []
        self.steps: list[Step] = []
        self.recorded: list[Recorded] = []
        self.dropped: list[int] = []
        self.patched: list[str] = []
        self.warnings: list[str] = []
        self.bytes = 0  # of steps
        self.recorded_bytes = 0


class Ledger:
    """Numbers steps, derives their keys, and compares them with the history until that is used up."""

    def __init__(self, history: History, loop: FlowLoop, *, strict: bool) -> None:
        self.held: Held | None = None
        self.count = 0  # steps issued so far: the number of the next one
        self.replaying = False
        self.draft = Draft(0)
        self._strict = strict  # a changed input is a mismatch, not a warning
        self._stored = history.steps
        self._end = 0  # while replaying: the number after the last step of the turn
        self._loop = loop
        self._names: set[str] = set()  # that were checked
        self._explicit: set[str] = set()
        self._granted: set[str] = set()  # names that ``patched`` returned True for
        self._patched: dict[str, bool] = {}
        self.changed_inputs: list[str] = []  # keys of steps whose input differs from the history

    def begin_replay(self, end: int, patched: list[str]) -> None:
        """Begin a stored turn, which issued steps up to ``end`` and was granted these patches."""
        self.replaying = True
        self._end = end
        self._granted.update(patched)
        self.draft = Draft(self.count)

    def begin_turn(self) -> None:
        """Begin a new turn."""
        self.replaying = False
        self.draft = Draft(self.count)
        for key in self.changed_inputs:
            self.warn(f"step {key} has a different input than when it was issued; its stored result is used")
        self.changed_inputs = []

    def forget_history(self) -> None:
        """Drop the stored steps, because all of them have been repeated."""
        self._stored = []

    def end_replay(self, waits_for: str) -> None:
        """Check that the code has issued all steps of the stored turn."""
        if self.count < self._end:
            self.hold_changed(f"no step: {waits_for}")

    def issue(
        self,
        kind: StepKind,
        name: str,
        *,
        key: str | None = None,
        target: Target | None = None,
        value: bytes | None = None,
        items: list[bytes] | None = None,
        **more: Any,
    ) -> tuple[int, str]:
        """Issue a step; return its number and key. Raises ValueError for a key that was used before, FlowError, and
        Stopped when history has another step here."""
        if name not in self._names:
            self._names.add(checked_name(name))
        key = self._structural(name) if key is None else self._stated(key)
        self._count_bytes(value, items)
        hashed = b"" if value is None and items is None else digest(value if items is None else b",".join(items))  # type: ignore[arg-type]
        no = self.count
        if self.replaying:
            self._compare(no, key, kind, name, target, hashed)
        else:
            self.draft.steps.append(
                Step(
                    no=no,
                    key=key,
                    kind=kind,
                    name=name,
                    input_hash=hashed,
                    target=target,
                    input=None if value is None else Raw(value),
                    items=None if items is None else [Raw(one) for one in items],
                    **more,
                )
            )
        self.count += 1
        return no, key

    def patched(self, name: str) -> bool:
        """Return whether new code applies, which is so where no history exists. The first result holds for the run."""
        found = self._patched.get(name)
        if found is None:
            checked_name(name)
            found = name in self._granted or not self.replaying
            self._patched[name] = found
            if not self.replaying:
                self.draft.patched.append(name)
        return found

    def drop(self, no: int) -> None:
        """Note that the code no longer waits for a step."""
        if not self.replaying:
            self.draft.dropped.append(no)

    def warn(self, text: str) -> None:
        """Add a warning to the turn."""
        if not self.replaying and len(self.draft.warnings) < _MAX_WARNINGS:
            self.draft.warnings.append(text)

    def hold_changed(self, found: str) -> None:
        """Hold the run because the code deviates from its history; ``found`` describes what it does."""
        no = self.count
        stored = _words(self._stored[no]) if no < self._end else "no further step before the next mail"
        self.hold(
            "changed",
            f"the code does not repeat this run: at step {no} its history has {stored}, but the code has {found}. "
            "Restore the code that the run began with, or end the run",
            no=no,
            stored=stored,
            found=found,
        )

    def hold(self, reason: str, message: str, **more: Any) -> None:
        """Stop the run. Only the first reason counts."""
        if self.held is None:
            self.held = Held(reason=reason, message=message, **more)
        self._loop.stopped = True

    def _compare(self, no: int, key: str, kind: StepKind, name: str, target: Target | None, hashed: bytes) -> None:
        if no < self._end:
            stored = self._stored[no]
            if stored.key == key and stored.kind is kind and stored.name == name and _same(stored.target, target):
                if stored.input_hash != hashed:
                    self._changed_input(no, key)
                return
        self.hold_changed(_words(StoredStep(no=no, key=key, kind=kind, name=name, target=target)))
        raise Stopped

    def _changed_input(self, no: int, key: str) -> None:
        if self._strict:
            self.hold(
                "changed",
                f"step {no} ({key}) has a different input when it is repeated: something in it differs between replays",
                no=no,
                stored=f"{key} with its first input",
                found=f"{key} with a different input",
            )
            raise Stopped
        if len(self.changed_inputs) < _MAX_WARNINGS:
            self.changed_inputs.append(key)

    def _structural(self, name: str) -> str:
        task = self._loop.current()
        names = self._loop.outside_names if task is None else task.names
        number = names.get(name, 0) + 1
        names[name] = number
        path = "~" if task is None else task.path
        return f"{path}/{name}#{number}" if path else f"{name}#{number}"

    def _stated(self, key: str) -> str:
        if checked_key(key) in self._explicit:
            raise ValueError(f"key {key!r} was given to an earlier step of this run: keys must differ")
        self._explicit.add(key)
        return key

    def _count_bytes(self, value: bytes | None, items: list[bytes] | None) -> None:
        size = _STEP_BYTES + (len(value) if value else 0) + (sum(map(len, items)) if items else 0)
        if self.draft.bytes + size > MAX_TURN_BYTES:
            raise FlowError(
                f"the steps issued without waiting take more than {MAX_TURN_BYTES >> 20} MiB: wait for some of them "
                "first, or pass large data as blobs"
            )
        self.draft.bytes += size

    def record(self, outcome: Recorded) -> None:
        """Add the outcome of a recorded function to the turn."""
        draft = self.draft
        size = len(bytes(outcome.value)) if outcome.value is not None else 0
        if draft.recorded_bytes + size > MAX_TURN_BYTES:
            message = f"the results recorded in one turn take more than {MAX_TURN_BYTES >> 20} MiB"
            outcome = Recorded(no=outcome.no, fault=Fault(category=Category.INTERNAL, message=message))
            size = 0
        draft.recorded_bytes += size
        draft.recorded.append(outcome)


def _same(stored: Target | None, target: Target | None) -> bool:
    if stored is None or target is None:
        return stored is target
    return stored.task_type == target.task_type and stored.model_profile == target.model_profile


def _words(step: StoredStep) -> str:
    kind = {StepKind.RECORD: "recorded function", StepKind.SIGNAL: "wait for signal", StepKind.EVENT: "wait for event"}
    what = described(kind.get(step.kind, step.kind.value), step.target)
    named = step.target is None and step.name != what
    return f"{what} {step.name} (key {step.key})" if named else f"{what} (key {step.key})"
