"""A program that a replica has started; they exchange lines over pipes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from penstock.failures import CallFailed, Category
from penstock.processes import exits
from penstock.processes.binding import bound

LONGEST_LINE: Final = 64 * 2**20  # bytes, without the newline

_READ: Final = 2**20  # bytes
_CHECK_SECONDS: Final = 1.0  # between checks that the program is alive, while waiting for a line
_CLOSED_SECONDS: Final = 1.0  # for a program that closed its output to end
_END_SECONDS: Final = 3.0  # for a program whose input was closed, before it is sent SIGTERM
_TERMINATE_SECONDS: Final = 2.0  # for a program that was sent SIGTERM, before it is killed


class TooLong(Exception):
    """The program wrote a line of more bytes than allowed."""


class Program:
    """One run of a program. It dies with this process, whose process group, working folder, environment and standard
    error it shares; no other file of ours is open in it.

    One thread at a time may send and read; any thread may call ``signal``, ``wait`` and ``stop``.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, longest: int = LONGEST_LINE
    ) -> None:
        """Start the program; ``command[0]`` is a path. ``environment`` replaces this process's, and ``longest`` is the
        limit of a line in bytes. Raises CallFailed (``unavailable``)."""
        self._longest = longest
        status, status_end = os.pipe()
        with os.fdopen(status, "rb") as report:
            try:
                self._process = subprocess.Popen(  # noqa: S603  (the operator's command, through no shell)
                    bound(command, status_fd=status_end),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    env=environment,
                    pass_fds=(status_end,),
                )
            except OSError as error:
                raise CallFailed(Category.UNAVAILABLE, f"{command[0]} cannot be started: {error.strerror}") from error
            finally:
                os.close(status_end)
            problem = report.read().decode(errors="replace")  # ends when the program has begun
        self._input: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # a pipe, by the arguments
        self._output: IO[bytes] = self._process.stdout  # type: ignore[assignment]  # as above
        if problem:
            self._process.wait()
            self._close()
            raise CallFailed(Category.UNAVAILABLE, f"{command[0]} cannot be started: {problem}")
        os.set_blocking(self._input.fileno(), False)
        self.unwanted = threading.Event()  # it is being stopped
        self._ended = threading.Event()
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._searched = 0  # bytes of `_received` that hold no newline
        threading.Thread(target=self._watch, name="penstock-program", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    # Lines

    def send(self, line: bytes) -> None:
        """Send a line, given without a newline. Bytes that the pipe cannot take yet are sent while ``line`` waits."""
        self._unsent = memoryview(line + b"\n")
        self._write()

    def line(self) -> bytes | None:
        """Wait for the next line that is not empty; return it without its newline, or None at the end of the output.
        Raises TooLong."""
        while True:
            end = self._received.find(b"\n", self._searched)
            if end >= 0:
                with memoryview(self._received) as view:
                    found = bytes(view[:end]).strip()
                del self._received[: end + 1]
                self._searched = 0
                if found:
                    return found
                continue
            self._searched = len(self._received)
            if self._searched > self._longest:
                raise TooLong
            if not self._exchange():
                return None

    def surplus(self) -> int:
        """Return how many bytes, except whitespace, the program has written since the last line was read."""
        while select.select([self._output], [], [], 0)[0]:
            data = os.read(self._output.fileno(), _READ)
            if not data:
                break
            self._received += data
            if len(self._received) > _READ:
                break
        return len(self._received.strip())

    def discard(self) -> None:
        """Drop what has arrived of a line that is too long."""
        self._received.clear()
        self._searched = 0

    def _exchange(self) -> bool:
        """Wait until bytes can be sent or have arrived; return False when no more will arrive."""
        poller = select.poll()
        poller.register(self._output, select.POLLIN)
        if self._unsent:
            poller.register(self._input, select.POLLOUT)
        events = poller.poll(1000 * _CHECK_SECONDS)
        if not events:  # the descendants of an ended program may hold its output open
            return not self._ended.is_set()
        for descriptor, _ in events:
            if descriptor == self._output.fileno():
                data = os.read(descriptor, _READ)
                if not data:
                    return False
                self._received += data
            else:
                self._write()
        return True

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._input.fileno(), self._unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has closed its input; its output is still read
            self._unsent = memoryview(b"")

    # Life

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait until the program has ended."""
        self._ended.wait()

    def has_ended(self, *, within: float) -> bool:
        """Return whether the program ends within that many seconds."""
        return self._ended.wait(within)

    def how_it_ended(self) -> str:
        """Describe how the program ended, after the end of its output."""
        if not self._ended.wait(_CLOSED_SECONDS):
            return "the program closed its output and kept running"
        status = self._process.returncode
        return f"the program {'ended with' if status >= 0 else 'was ended by'} {exits.described(status)}"

    def stop(self, *, gracefully: bool = True) -> None:
        """End the program by closing its input, then by SIGTERM, then by SIGKILL; or by SIGKILL at once."""
        self.unwanted.set()
        with suppress(OSError):
            self._input.close()
        if gracefully and not self._ended.wait(_END_SECONDS):
            self.signal(signal.SIGTERM)
            self._ended.wait(_TERMINATE_SECONDS)
        if not self._ended.is_set():
            self.signal(signal.SIGKILL)
            self._ended.wait()
        self._close()

    def _watch(self) -> None:
        self._process.wait()
        self._ended.set()

    def _close(self) -> None:
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()
