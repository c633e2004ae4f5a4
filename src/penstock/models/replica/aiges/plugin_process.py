"""The process of a plugin: started with the replica, and bound to it."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges.handshake import COOKIE, VERSION, Address, WrongHandshake, parse
from penstock.models.replica.aiges.listeners import foreign_listener
from penstock.models.replica.program import Program, TooLong

_LONGEST_LINE: Final = 2**16  # bytes
_END_SECONDS: Final = 0.5  # for a plugin whose connection is lost to end
_MAX_LINES: Final = 1000  # before the handshake


class PluginProcess:
    """A running plugin. Its standard error is the replica's, which becomes the model's log."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the plugin, and wait until it has stated its address. Raises CallFailed (``unavailable``)."""
        port = str(_free_port())
        own = {COOKIE[0]: COOKIE[1], "PLUGIN_PROTOCOL_VERSIONS": VERSION}
        ports = {"PLUGIN_MIN_PORT": port, "PLUGIN_MAX_PORT": port}
        self._program = Program(command, environment={**environment, **own, **ports}, longest=_LONGEST_LINE)
        try:
            self.address = self._handshake()
            if self.address.port is not None and foreign_listener(self.address.port):
                raise WrongHandshake(f"another process listens on port {self.address.port} as well")
        except WrongHandshake as error:
            self._program.stop(gracefully=False)
            raise CallFailed(Category.UNAVAILABLE, f"the plugin cannot be used: {error}") from None
        threading.Thread(target=self._drain, name="penstock-plugin-output", daemon=True).start()

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call ``ended`` with the reason, from another thread, when the plugin has ended on its own."""

        def wait() -> None:
            self._program.wait()
            if not self._program.unwanted.is_set():
                ended(self._program.how_it_ended())

        threading.Thread(target=wait, name="penstock-plugin-watch", daemon=True).start()

    def end(self) -> str | None:
        """Return how the plugin has ended; None if it runs."""
        return self._program.how_it_ended() if self._program.has_ended(within=_END_SECONDS) else None

    def stop(self) -> None:
        """End the plugin by SIGTERM, then by SIGKILL."""
        self._program.unwanted.set()
        self._program.signal(signal.SIGTERM)
        self._program.stop()

    def _handshake(self) -> Address:
        """Read lines until the handshake; others become lines of the log. Raises WrongHandshake."""
        for _ in range(_MAX_LINES):
            try:
                line = self._program.line()
            except TooLong:
                raise WrongHandshake(f"it wrote a line of more than {_LONGEST_LINE} bytes") from None
            if line is None:
                raise WrongHandshake(f"{self._program.how_it_ended()} and stated no address")
            text = line.decode(errors="replace")
            address = parse(text)
            if address is not None:
                return address
            _write(text)
        raise WrongHandshake(f"it wrote {_MAX_LINES} lines and stated no address")

    def _drain(self) -> None:
        """Pass what the plugin writes to the model's log."""
        while True:
            try:
                line = self._program.line()
            except TooLong:
                self._program.discard()
                _write(f"the plugin wrote a line of more than {_LONGEST_LINE} bytes, which is left out")
                continue
            except (OSError, ValueError):  # its pipe was closed
                return
            if line is None:
                return
            _write(line.decode(errors="replace"))


def _write(line: str) -> None:
    """Write a line, which becomes one of the model's log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
