"""Turn the output and log records of a model into lines of its log, marked with the call that wrote them."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable

from penstock.failures import CallFailed
from penstock.models.replica.errors import traceback_of

Write = Callable[[str, str], None]  # level, message

_MAX_LINE = 16 * 1024  # characters of one line


class _Lines(io.TextIOBase):
    """A text stream that reports whole lines and does not mix parts of lines of different threads or calls."""

    def __init__(self, write: Write, level: str, descriptor: int) -> None:
        self._write = write
        self._level = level
        self._descriptor = descriptor
        self._rests: dict[int, str] = {}  # unfinished lines, by thread

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        *lines, rest = (self._rests.pop(thread, "") + text).split("\n")
        for line in lines:
            self._line(line)
        if len(rest) > _MAX_LINE:
            self._line(rest)
            rest = ""
        if rest:
            self._rests[thread] = rest
        return len(text)

    def flush(self) -> None:
        """Report this thread's unfinished line."""
        if self._rests:
            self._line(self._rests.pop(threading.get_ident(), ""))

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base says str | None
        return "utf-8"

    def _line(self, line: str) -> None:
        line = line.rpartition("\r")[2] or line.rstrip("\r")  # the last visible state of a progress bar
        if line.strip():
            self._write(self._level, line)


class _Handler(logging.Handler):
    """Log records of libraries and models."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        level = "debug" if record.levelno < logging.INFO else "info"
        if record.levelno >= logging.WARNING:
            level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            self._write(level, f"{record.name}: {self.format(record)}")
        except Exception:  # noqa: BLE001 - what cannot be logged must not end a call
            self.handleError(record)


_writers: list[Write] = []


def capture(write: Write) -> None:
    """Redirect this process's printed text and log records to ``write``."""
    _writers[:] = [write]
    sys.stdout = _Lines(write, "info", 1)
    sys.stderr = _Lines(write, "warning", 2)
    handler = _Handler(write)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def flush() -> None:
    """Report unfinished lines; called at the end of each call."""
    sys.stdout.flush()
    sys.stderr.flush()


def failed(error: BaseException) -> None:
    """Write the traceback of a model's exception into its log, unless the model refused the input on purpose."""
    if isinstance(error, CallFailed):
        return
    flush()
    for line in traceback_of(error):
        for write in _writers:
            write("error", line)
