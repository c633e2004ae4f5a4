"""A loaded ``libwrapper.so``: its functions with values of Python, and the functions of ours that it calls."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import codes
from penstock.models.replica.aiges.c_interface import Interface, broken
from penstock.models.replica.aiges.calls import Item
from penstock.models.replica.aiges.results import Results, Streams
from penstock.models.replica.runtime import Call

CONTROLS: Final = ("CTMeterCustom", "CTMetricsLog", "CTTraceLog")

_MAX_TAG: Final = 64  # bytes
_KEPT_TAGS: Final = 10_000  # of calls that have ended, in case that the engine reports them again
MAX_ABANDONED: Final = 500_000  # calls that ended before the engine reported their end; they take about 150 MB
_MAX_METERS: Final = 100  # keys that one call may meter
_MAX_LINE: Final = 4096  # bytes of a key or value that is logged

Log = Callable[[Call | None, str, str], None]


@dataclass(slots=True, eq=False)
class Running:
    """A call or session that the engine knows by its tag."""

    call: Call
    results: Results | None  # of the callback; None for a call without one
    tag: str
    pointer: Any  # to the tag, in memory that stays while the engine may use it
    usage: dict[str, int] = field(default_factory=dict)  # what the engine metered
    streams: Streams = field(default_factory=Streams)  # of the callback's results
    failed: bool = False  # the engine reported its end by a code
    handle: Any = None  # of a session
    destroyed: bool = False  # as a session

    @property
    def needs_tag(self) -> bool:
        """Whether the engine may still use the tag: it works for the call, and has not reported its end."""
        return self.results is not None and not (self.failed or self.destroyed or self.streams.over)


class Library:
    """An engine. Methods that call it block; any thread may call them, but for one session one after the other.

    ``log`` receives the call that a line belongs to, or None, the level, and the line.
    """

    def __init__(self, path: Path, log: Log) -> None:
        """Load the library. Raises CallFailed (``unavailable``)."""
        self._interface = interface = Interface()
        self._functions = interface.opened(path)
        self._ffi = ffi = interface.ffi
        self._log = log
        self._numbers = itertools.count(1)
        self._running: dict[str, Running] = {}
        self._reported: deque[Any] = deque(maxlen=_KEPT_TAGS)  # pointers to tags
        self._abandoned: dict[str, tuple[Any, Streams]] = {}  # as above, of calls whose end is not reported yet
        self._callback = ffi.callback("wrapperCallback", self._called_back, error=-1)
        self._controls = {
            "CTMeterCustom": ffi.callback("wrapperMeterCustom", self._metered, error=-1),
            "CTMetricsLog": ffi.callback("wrapperMetrics", self._measured, error=-1),
            "CTTraceLog": ffi.callback("wrapperTraceLog", self._traced, error=-1),
        }

    # The life of the engine

    @property
    def version(self) -> str:
        return self._interface.string(self._functions.wrapperVersion())

    def init(self, config: Mapping[str, str]) -> None:
        """Pass our functions to the engine, and load it."""
        for number, name in enumerate(CONTROLS):
            function = self._ffi.cast("void *", self._controls[name])
            code = self._functions.wrapperSetCtrl(number, function)
            if code:
                self._log(None, "warning", f"wrapperSetCtrl({name}) returned {code}")
        pairs, _kept = self._interface.pairs(config)
        self._check(self._functions.wrapperInit(pairs), codes.INIT, Category.UNAVAILABLE)

    def fini(self) -> None:
        self._check(self._functions.wrapperFini(), codes.FINI)

    def load_resource(self, number: int, item: Item) -> None:
        nodes, _kept = self._interface.data([item])
        self._check(self._functions.wrapperLoadRes(nodes, number), codes.LOAD, Category.UNAVAILABLE)

    def unload_resource(self, number: int) -> None:
        self._check(self._functions.wrapperUnloadRes(number), codes.UNLOAD)

    # Calls

    def begin(self, call: Call, results: Results | None = None) -> Running:
        """Give a call a tag. No tag is used twice, so a late result cannot reach another call.

        Raises SystemExit, which ends the replica, where the engine has left too many calls without an end.
        """
        if len(self._abandoned) >= MAX_ABANDONED:
            raise SystemExit(f"the engine has not reported the end of {MAX_ABANDONED} calls")
        tag = f"penstock-{next(self._numbers)}"
        running = Running(call, results, tag, self._ffi.new("char[]", tag.encode()))
        self._running[tag] = running
        return running

    def end(self, running: Running) -> None:
        """Take no more results of a call. Memory of a tag that the engine may still use is not used for another one."""
        del self._running[running.tag]
        if running.needs_tag:
            self._abandoned[running.tag] = (running.pointer, running.streams)
        else:
            self._reported.append(running.pointer)

    def execute(
        self, running: Running, params: Mapping[str, str], items: Sequence[Item], resources: Sequence[int]
    ) -> list[Item]:
        """Run a call and return its results."""
        pairs, _pairs = self._interface.pairs(params)
        nodes, _nodes = self._interface.data(items)
        found = self._ffi.new("pDataList *")
        function = self._functions.wrapperExec
        self._check(function(running.pointer, pairs, nodes, found, list(resources), len(resources)), codes.EXEC)
        try:
            return self._interface.items(found[0])
        finally:
            code = self._functions.wrapperExecFree(running.pointer, found)
            if code:
                self._log(running.call, "warning", f"wrapperExecFree returned {code}")

    def execute_async(
        self, running: Running, params: Mapping[str, str], items: Sequence[Item], resources: Sequence[int]
    ) -> None:
        """Begin a call whose results go to ``running.results``."""
        pairs, _pairs = self._interface.pairs(params)
        nodes, _nodes = self._interface.data(items)
        function = self._functions.wrapperExecAsync
        code = function(running.pointer, pairs, nodes, self._callback, 0, list(resources), len(resources))
        if code:
            running.failed = True
        self._check(code, codes.EXEC)

    # Sessions

    def create(self, running: Running, params: Mapping[str, str], resources: Sequence[int]) -> None:
        """Begin a session, with a callback where there are ``running.results``."""
        pairs, _pairs = self._interface.pairs(params)
        code = self._ffi.new("int *")
        callback = self._ffi.NULL if running.results is None else self._callback
        handle = self._functions.wrapperCreate(running.pointer, pairs, callback, list(resources), len(resources), code)
        if code[0] or not handle:
            running.failed = True
            self._check(code[0], codes.CREATE)
            raise broken("wrapperCreate returned NULL and no error")
        running.handle = handle

    def write(self, running: Running, items: Sequence[Item]) -> None:
        nodes, _kept = self._interface.data(items)
        self._check(self._functions.wrapperWrite(running.handle, nodes), codes.WRITE)

    def read(self, running: Running) -> list[Item]:
        found = self._ffi.new("pDataList *")
        self._check(self._functions.wrapperRead(running.handle, found), codes.READ)
        return self._interface.items(found[0])

    def destroy(self, running: Running) -> None:
        """End a session; log what the engine reports of it."""
        handle, running.handle = running.handle, None
        running.destroyed = True
        if details := self._interface.string(self._functions.wrapperDebugInfo(handle)):
            self._log(running.call, "debug", f"wrapperDebugInfo: {details}")
        code = self._functions.wrapperDestroy(handle)
        if code:
            self._log(running.call, "warning", f"wrapperDestroy failed: {self._refused(code, codes.DESTROY)}")

    # Codes

    def _check(self, number: int, code: int, category: Category = Category.INTERNAL) -> None:
        """Raise CallFailed if the engine reported an error number in the function that ``code`` names."""
        if number:
            raise self._refused(number, code, category)

    def _refused(self, number: int, code: int, category: Category = Category.INTERNAL) -> CallFailed:
        failure = codes.refused(code, number, self._interface.string(self._functions.wrapperError(number)))
        return failure if category is failure.category else codes.failed(code, failure.message, category=category)

    # What the engine calls, from any thread. An exception is printed by cffi, and the function returns -1.

    def _called_back(self, tag: Any, first: Any, code: int) -> int:
        running = self._find(tag)
        if running is None or running.results is None:
            self._note_late(tag, first, code)
            return -1
        if code:
            running.failed = True
            return 0 if running.results.fail(self._refused(code, codes.ASYNC)) else -1
        try:
            items = self._interface.items(first)
        except CallFailed as error:
            running.results.fail(error)
            return -1
        running.streams.feed(items)
        return 0 if running.results.deliver(items) else -1

    def _note_late(self, tag: Any, first: Any, code: int) -> None:
        """Let the tag of an abandoned call go when the engine reports the end of the call."""
        name = self._text_of(tag)
        pointer, streams = self._abandoned.get(name, (None, None))
        if streams is None:
            return
        items = () if code else self._interface.items(first)
        if not items or streams.feed(items):
            self._abandoned.pop(name, None)
            self._reported.append(pointer)

    def _metered(self, tag: Any, key: Any, count: int) -> int:
        running, name = self._find(tag), self._interface.string(key, _MAX_LINE)
        self._log(_call_of(running), "info", f"usage {name}={count}")
        if running is None:
            return -1
        if name in running.usage or len(running.usage) < _MAX_METERS:
            running.usage[name] = running.usage.get(name, 0) + count
        return 0

    def _measured(self, tag: Any, key: Any, labels: Any, value: int) -> int:
        running, name = self._find(tag), self._interface.string(key, _MAX_LINE)
        stated = ",".join(f"{label}={text}" for label, text in self._interface.attributes(labels).items())
        self._log(_call_of(running), "info", f"metric {name}{{{stated}}}={value}")
        return 0 if running else -1

    def _traced(self, tag: Any, key: Any, value: Any) -> int:
        running = self._find(tag)
        name, text = self._interface.string(key, _MAX_LINE), self._interface.string(value, _MAX_LINE)
        self._log(_call_of(running), "info", f"{name}: {text}")
        return 0 if running else -1

    def _find(self, tag: Any) -> Running | None:
        return self._running.get(self._text_of(tag))

    def _text_of(self, tag: Any) -> str:
        return self._interface.string(self._ffi.cast("char *", tag), _MAX_TAG) if tag else ""


def _call_of(running: Running | None) -> Call | None:
    return None if running is None else running.call
