"""Interrupt blocking Python code of a model from another thread, and only that code.

CPython can raise an exception in another thread between two bytecodes. It must never hit code outside the model, which
may be writing to a socket or taking a lock. So the model's code runs between ``Interruptible.enter`` and ``leave``, and
our own code that it calls runs in ``shielded``. Code that blocks outside of Python is interrupted when it returns.

The exception can also hit a finalizer or a callback of the garbage collector, which the interpreter calls in that
thread. There it does not propagate: Python passes it to ``sys.unraisablehook``. ``resend_lost_exceptions`` installs a
hook that has it sent once more.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from penstock.models.replica.runtime import Call, Cancelled

_MAX_TURNS = 10  # turns of a loop, each of which lets a pending exception out
_RESEND_SECONDS = 0.01  # seconds after which an exception that was lost is sent once more


class Interruptible:
    """The sections of one thread in which the model's code runs for ``calls``.

    One token, present while the model's code runs, decides which thread acts: the leaving thread or the interrupting
    thread, whichever removes it first. ``list.append`` and ``list.pop`` are atomic; a lock could itself be interrupted
    between being taken and being recorded as taken. The model's code sees at most one exception in the object's life.
    """

    __slots__ = ("_calls", "_inside", "_late", "_over", "_raised", "_sent", "_thread", "_token")

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._thread = threading.get_ident()
        self._token: list[None] = []
        self._raised = False  # an exception is being sent, was sent, or was raised on entering
        self._over = False  # the exception has arrived
        self._late = False  # the exception was lost while this thread left
        self._inside = False  # between enter and leave; written by the model's thread only
        self._sent: threading.Lock | None = None  # made by the interrupting thread; held until the exception is sent
        _of_thread[self._thread] = self
        interrupt = self.interrupt
        for call in calls:
            call.on_cancel = interrupt

    def enter(self) -> None:
        """Begin a section of the model's code. Raises Cancelled when all callers have gone already."""
        self._inside = True
        if self._raised:
            return  # the model's cleanup is not disturbed
        self._token.append(None)
        # After the token, so that a concurrent cancel either finds the token or is seen here.
        if self._gone() and self._take():
            self._raised = self._over = True
            self._inside = False
            raise Cancelled

    def leave(self) -> bool:
        """End the section: nothing interrupts this thread from here on. Returns whether an exception came too late for
        the model's code to see."""
        try:
            self._inside = False
            if self._over or self._take():
                return False
            self._wait_until_sent()
            for _ in range(_MAX_TURNS):
                pass
        except Cancelled:
            self._late = True
        self._over = True
        return self._late

    def end(self) -> None:
        """Forget the calls, which have ended."""
        _of_thread.pop(self._thread, None)

    def interrupt(self) -> None:
        """Raise Cancelled in the model's code, if it runs and all its callers have gone.

        Called by one thread at a time, the one that cancels calls, when a caller has gone.
        """
        if self._raised or not self._gone():
            return
        sending = threading.Lock()
        sending.acquire()
        self._sent = sending  # before the token is taken: the thread that leaves waits for it
        if not self._take():
            return  # code that is outside of a section sees it on entering
        self._raised = True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Cancelled))
        sending.release()

    def lost(self) -> None:
        """Send the exception again, after it was lost in code that the interpreter called in this thread."""
        if not self._inside:
            self._late = True
            return
        self._wait_until_sent()
        ready = threading.Lock()
        ready.acquire()
        # Started first, because starting a thread takes a while, and the exception must not arrive meanwhile.
        threading.Thread(target=self._interrupt_again, args=(ready,), daemon=True).start()
        self._raised = False
        self._token.append(None)
        ready.release()

    def _interrupt_again(self, ready: threading.Lock) -> None:
        ready.acquire()
        time.sleep(_RESEND_SECONDS)
        self.interrupt()

    @property
    def inside(self) -> bool:
        return self._inside

    def _gone(self) -> bool:
        for call in self._calls:  # noqa: SIM110 - twice as fast as ``all``
            if not call.cancelled:
                return False
        return True

    def _wait_until_sent(self) -> None:
        assert self._sent is not None  # noqa: S101 - made by the thread that took the token
        self._sent.acquire()

    def _take(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True


_of_thread: dict[int, Interruptible] = {}


def resend_lost_exceptions() -> None:
    """Make this process send a Cancelled again when it arrived in code from which it could not propagate."""
    otherwise = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        section = _of_thread.get(threading.get_ident())
        if section is not None and issubclass(unraisable.exc_type, Cancelled):
            section.lost()
        else:
            otherwise(unraisable)

    sys.unraisablehook = hook


@contextmanager
def shielded() -> Iterator[None]:
    """Keep our own code that a model calls, such as writing a log line, from being interrupted. Raises Cancelled
    afterwards when the callers have gone meanwhile."""
    section = _of_thread.get(threading.get_ident())
    if section is None or not section.inside:
        yield
        return
    late = section.leave()
    try:
        yield
    finally:
        section.enter()
        if late:
            raise Cancelled
