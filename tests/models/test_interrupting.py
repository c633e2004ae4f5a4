"""A model's code is interrupted at any moment, and no other code is."""

from __future__ import annotations

import gc
import queue
import random
import sys
import threading
from collections.abc import Iterator

import pytest

import penstock
from penstock import Context
from penstock.models.replica import interrupting
from penstock.models.replica.call_files import CallFiles
from penstock.models.replica.contract.context import Running
from penstock.models.replica.interrupting import Interruptible, shielded
from penstock.models.replica.runtime import Call, Cancelled, Output

LIMIT = 60.0  # seconds that anything here may take
TURNS = 2000
LINES = 40  # that one call logs


class FragileWire:
    """Counts how often its writing was interrupted, which must never happen."""

    def __init__(self) -> None:
        self.broken = 0
        self.files = CallFiles("")

    def chunk(self, call: Call, output: Output) -> None:
        self._work()

    def progress(self, call: Call, value: bytes) -> None:
        self._work()

    def log(self, call: Call | None, level: str, message: str) -> None:
        self._work()

    def _work(self) -> None:
        done = False
        try:
            for _ in range(20):
                pass
            done = True
        finally:
            self.broken += not done


class Trial:
    """Calls one after the other, each cancelled by another thread somewhere in its course or just after it."""

    def __init__(self) -> None:
        self.wire = FragileWire()
        self.cancelled = self.finished = self.stray = 0
        self._chance = random.Random(1)
        self._going: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._gone = threading.Semaphore(0)

    def run(self) -> None:
        """Make the calls, in this thread."""
        canceller = threading.Thread(target=self._cancel, daemon=True)
        canceller.start()
        for _ in range(TURNS):
            self._one()
            try:
                for _ in range(50):
                    pass
                self._gone.acquire()
            except Cancelled:
                self.stray += 1
        self._going.put(None)
        canceller.join(LIMIT)

    def _one(self) -> None:
        call = Call(1, b"{}", (), request_id="", streams=False, wire=self.wire)
        section = Interruptible((call,))
        moment = self._chance.randrange(LINES + 1)
        try:
            with Running((call,), "cpu"):
                section.enter()
                try:
                    self._model(call, moment)
                finally:
                    section.leave()
            if moment == LINES:
                self._going.put(call)
            self.finished += 1
        except Cancelled:
            self.cancelled += 1
        finally:
            section.end()

    def _model(self, call: Call, moment: int) -> None:
        for line in range(LINES):
            if line == moment:
                with shielded():
                    self._going.put(call)
            penstock.context().log("line")
            len([[] for _ in range(10)])  # so that garbage is collected here

    def _cancel(self) -> None:
        while (call := self._going.get()) is not None:
            call.cancel()
            self._gone.release()


@pytest.fixture
def restless() -> Iterator[None]:
    """Let the interpreter switch between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def collecting() -> Iterator[None]:
    """Collect garbage often, with a callback that takes a while."""

    def called_back(phase: str, info: dict[str, int]) -> None:
        for _ in range(200):
            pass

    before = gc.get_threshold()
    gc.callbacks.append(called_back)
    gc.set_threshold(2)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(called_back)


class Dropped:
    """Its finalizer runs Python code for a while; an exception raised there is only reported, never propagated."""

    def __del__(self) -> None:
        for _ in range(1000):
            pass


@pytest.fixture
def noticing(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Turn on resending of lost exceptions; return the list of all other unraisable ones."""
    others: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: others.append(unraisable.exc_type))
    interrupting.resend_lost_exceptions()
    return others


def test_cancelling_at_any_moment_never_hits_code_that_is_not_the_models(
    restless: None, collecting: None, noticing: list[object]
) -> None:
    """No function of Penstock that the model calls is interrupted, and no exception is left for later code. One that
    arrives in a callback of the garbage collector is sent again."""
    trial = Trial()
    ended = threading.Event()

    def run() -> None:
        try:
            trial.run()
        finally:
            ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(LIMIT)
    assert (trial.wire.broken, trial.stray) == (0, 0)
    assert trial.cancelled + trial.finished == TURNS
    assert trial.cancelled > 0
    assert trial.finished > 0
    assert not interrupting._of_thread
    assert noticing == []


def test_an_exception_that_a_finalizer_loses_is_sent_again(noticing: list[object]) -> None:
    """Half of what the model runs is finalizers; without being sent again half of the calls would never end."""
    wire = FragileWire()
    ended = 0

    def model(begun: threading.Event) -> None:
        begun.set()
        while True:
            Dropped()
            for _ in range(1000):
                pass

    def cancel(call: Call, begun: threading.Event) -> None:
        begun.wait()
        call.cancel()

    def run() -> None:
        nonlocal ended
        for _ in range(50):
            call = Call(1, b"{}", (), request_id="", streams=False, wire=wire)
            section = Interruptible((call,))
            begun = threading.Event()
            canceller = threading.Thread(target=cancel, args=(call, begun))
            try:
                canceller.start()
                section.enter()
                try:
                    model(begun)
                finally:
                    section.leave()
            except Cancelled:
                ended += 1
            finally:
                section.end()
                canceller.join(LIMIT)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(LIMIT)
    assert not running.is_alive()
    assert ended == 50
    assert noticing == []


def test_other_unraisable_exceptions_are_reported_as_before(noticing: list[object]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise LookupError

    Broken()
    assert noticing == [LookupError]


def test_shielding_outside_of_a_model_does_nothing() -> None:
    with shielded():
        pass
    with pytest.raises(RuntimeError, match="no model is running"):
        penstock.context()
    with pytest.raises(ValueError, match=r"from 0\.0 to 1\.0"):
        Context().progress(1.5)
    with pytest.raises(ValueError, match="level must be one of"):
        Context().log("x", "loud")
