"""Ensure that no replica outlives its host, however the host ends.

A small process waits at a pipe that only the host holds open. The host sends it the process group of every replica
(``123``) and of every one that has ended (``-123``). When the pipe closes, it kills all remaining groups: each replica,
the program that it started, and the descendants of that. Then it removes the host's folder of files of calls.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Final

from penstock.telemetry import logs

log = logs.get(__name__)

_SCRIPT: Final = Path(__file__).with_name("guard.py")


class Guardian:
    """The host's end of the pipe. The process is started with the first replica."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._folder: Path | None = None
        self._process: Process | None = None
        self._starting = asyncio.Lock()

    async def watch(self, group: int) -> None:
        """Kill this process group when the host ends."""
        self._groups.add(group)
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                await self._start()
            else:
                self._send(group)

    def release(self, group: int) -> None:
        """Forget a group that has ended."""
        if group in self._groups:
            self._groups.discard(group)
            self._send(-group)

    def remove_at_end(self, folder: Path) -> None:
        """Remove this folder when the host has ended and its groups are killed."""
        self._folder = folder
        self._send_folder()

    async def stop(self) -> None:
        """End the process; it kills the groups that are still watched."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            await process.wait()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_SCRIPT), stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL,
            start_new_session=True, cwd="/", env={"PATH": os.defpath},
        )  # fmt: skip
        for group in self._groups:
            self._send(group)
        self._send_folder()

    def _send(self, number: int) -> None:
        self._write(b"%d\n" % number)

    def _send_folder(self) -> None:
        if self._folder is not None:
            self._write(b"folder " + os.fsencode(self._folder).hex().encode() + b"\n")

    def _write(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line)
