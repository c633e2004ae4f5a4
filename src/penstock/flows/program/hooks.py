"""Object when flow code does something that blocks or differs between replays; name the file and the line.

The run is held: once its code is corrected, it continues from what is stored.
"""

from __future__ import annotations

import builtins
import sys
import sysconfig
import time
from asyncio import events
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, SupportsIndex, TypeVar

from penstock.flows.kernel import origins
from penstock.flows.kernel.errors import Stopped
from penstock.flows.kernel.resident import Run
from penstock.flows.program.checking import FORBIDDEN, GUARD

T = TypeVar("T")

_BLOCKING: Final = {  # audit events and their names in messages
    "socket.connect": "opening a connection",
    "socket.getaddrinfo": "looking up a host",
    "subprocess.Popen": "starting a program",
    "os.system": "starting a program",
    "os.fork": "starting a process",
    "open": "opening a file",
}
_ADVICE: Final = FORBIDDEN["builtins.open"]
_LIBRARY: Final = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen "})
# Modules of the standard library that open files for harmless purposes: tracebacks, imports, time zones.
_MAY_OPEN: Final = ("linecache.py", "tokenize.py", "zoneinfo", "importlib", "encodings", "gettext.py", "locale.py")


def install() -> None:
    """Install the guard that flow code is compiled with, the audit hook, and a ``time.sleep`` that objects too: before
    Python 3.13 it raises no audit event."""
    setattr(builtins, GUARD, guard)
    sys.addaudithook(_audit)
    time.sleep = _sleep


def guard(function: T, name: str) -> T:
    """Return a forbidden function that is about to be called, unless flow code calls it."""
    run = _running()
    if run is not None:
        frame = sys._getframe(1)
        _object(run, frame, f"{name} {FORBIDDEN[name]}")
    return function


_original_sleep: Final = time.sleep


def _sleep(seconds: SupportsIndex | float) -> None:
    run = _running()
    frame = None if run is None else _flow_frame(_frames(sys._getframe(1)))
    if run is not None and frame is not None:
        _object(run, frame, f"time.sleep {FORBIDDEN['time.sleep']}")
    _original_sleep(seconds)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    what = _BLOCKING.get(event)
    if what is None:
        return
    run = _running()
    if run is None:
        return
    frames = list(_frames(sys._getframe(1)))
    if event == "open":
        if _opened_by_library(frames):
            return
        what = f"opening the file {str(arguments[0])[:200]!r}"
    frame = _flow_frame(frames)
    if frame is not None:
        _object(run, frame, f"{what} {_ADVICE}")


def _flow_frame(frames: Iterable[FrameType]) -> FrameType | None:
    """Return the innermost frame of flow code."""
    return next((one for one in frames if origins.is_flow_code(one.f_code.co_filename)), None)


def _opened_by_library(frames: list[FrameType]) -> bool:
    """Return whether a file is opened by a third-party library or by a harmless part of the standard library."""
    for frame in frames:
        name = frame.f_code.co_filename
        if origins.is_flow_code(name):
            return False
        if not name.startswith(_LIBRARY) or "site-packages" in name or any(one in name for one in _MAY_OPEN):
            return True
    return True


def _object(run: Run, frame: FrameType, what: str) -> None:
    path = Path(frame.f_code.co_filename).name
    run.ledger.hold("broken", f"{path}, line {frame.f_lineno}, in {frame.f_code.co_name}: {what}")
    raise Stopped


def _running() -> Run | None:
    """Return the run whose code runs in this thread; None in side effects and outside of runs."""
    owner = getattr(events._get_running_loop(), "owner", None)
    return owner if isinstance(owner, Run) and not owner.loop.stopped else None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
