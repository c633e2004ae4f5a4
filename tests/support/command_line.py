"""The command line, run as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import PENSTOCK, clean_environment


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """The exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


async def run_command(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> CommandResult:
    process = await asyncio.create_subprocess_exec(
        *PENSTOCK,
        *arguments,
        env=clean_environment(**variables),
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return CommandResult(status=process.returncode, out=out.decode(), err=err.decode())


async def run_on_terminal(folder: Path, *arguments: str, **variables: str) -> str:
    """Return what a person sees on a terminal of 160 columns."""
    ours, theirs = pty.openpty()
    environment = clean_environment(**variables, COLUMNS="160", TERM="xterm", NO_COLOR="1")
    process = await asyncio.create_subprocess_exec(
        *PENSTOCK, *arguments, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)

    def read() -> bytes:
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # a terminal reports in this way that the other side is gone
            pass
        return b"".join(parts)

    shown = await asyncio.to_thread(read)
    os.close(ours)
    assert await process.wait() == 0, shown.decode()
    return shown.decode()
