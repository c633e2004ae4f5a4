"""A program that is started bound to its parent ends with it, and a failure to start is reported."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from penstock.processes.binding import bound
from tests.support.processes import alive, clean_environment
from tests.support.waiting import until


async def test_a_bound_program_ends_with_its_parent(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    program = f"import os, signal; open({str(noted)!r}, 'w').write(str(os.getpid()) + chr(10)); signal.pause()"
    parent = (
        "import subprocess, sys\nfrom penstock.processes.binding import bound\n"
        f"subprocess.run(bound([sys.executable, '-c', {program!r}]))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, env=clean_environment())
    await until(lambda: noted.exists() and noted.read_text().endswith("\n"), "the program runs")
    pid = int(noted.read_text())
    process.kill()
    await process.wait()
    await until(lambda: not alive(pid), "the program ended with its parent")


def test_a_program_whose_parent_is_already_dead_does_not_start(tmp_path: Path) -> None:
    command = bound([sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])
    command[command.index(str(os.getpid()))] = "1"  # not its parent
    assert subprocess.run(command, check=False).returncode == 1
    assert not (tmp_path / "ran").exists()


def test_a_program_that_cannot_be_started_is_reported() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as status:
        done = subprocess.run(bound(["/no/such/program"], status_fd=write), pass_fds=(write,), check=False)
        os.close(write)
        assert (done.returncode, status.read()) == (127, b"No such file or directory")


def test_a_bound_program_gets_signals_that_python_ignores_and_has_the_umask_that_was_given() -> None:
    """Python ignores SIGPIPE, for example, and a program that it starts would inherit that.

    Other signals stay ignored if the whole session ignores them: ``nohup`` does so with SIGHUP.
    """
    command = bound(["/bin/sh", "-c", "umask; grep SigIgn /proc/self/status"], umask=0o077)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    umask, _, ignored = done.stdout.split()
    by_python = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ))
    assert (int(umask, 8), int(ignored, 16) & by_python) == (0o077, 0)
