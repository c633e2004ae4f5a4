"""Install an environment: in a folder beside its place, which is moved there when everything is in it."""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from penstock.errors import CannotStart
from penstock.models.environments.environment import RECORD, Environment, root
from penstock.models.environments.holding import held
from penstock.models.environments.records import Record

UNFINISHED: Final = ".part"  # suffix of the folder of an install that has not ended
_OPTIONS: Final = (
    "--require-hashes", "--no-input", "--disable-pip-version-check", "--no-warn-script-location",
    "--retries", "2", "--timeout", "20",
)  # fmt: skip
_UNREACHABLE: Final = re.compile(r"establish a new connection|timed out|Name or service|name resolution|Network is un")
_PACKAGE: Final = re.compile(r"(?:Collecting |Processing (?:\S*/)?)([\w.]+(?:-[A-Za-z_.]+)*)")
_LAST_LINES: Final = 12  # of pip's output, in an error
_OF_PYTHON: Final = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON")

Report = Callable[[str], None]


def install(
    environment: Environment, *, report: Report, private: Collection[str] = (), on_terminal: bool = False
) -> bool:
    """Make an environment and return True; False if it is there. Blocks for as long as pip takes.

    ``report`` gets lines about the progress; with ``on_terminal``, pip writes to the terminal itself. Programs that
    build packages do not see the variables ``private``. Raises CannotStart, which says what to do; then, and after an
    interruption, nothing is left that is taken for an environment.
    """
    root().mkdir(parents=True, exist_ok=True)
    waiting = partial(report, "Another process is installing this environment; waiting for it.")
    with held(environment.key, before_waiting=waiting) as lock:
        if environment.installed:
            return False
        _remove_unfinished(environment)
        building = root() / f"{environment.key}.{secrets.token_hex(4)}{UNFINISHED}"
        try:
            building.mkdir()  # as the umask says: an image is made by one user and run by another
            _build(environment, building, _Pip(lock, report, _variables(private), on_terminal))
            _move(building, environment.folder)
        except OSError as error:
            raise CannotStart(f"the environment cannot be installed in {root()}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return True


def _remove_unfinished(environment: Environment) -> None:
    """Remove what a killed install has left, and an environment whose Python is gone. Only with the lock."""
    for left in (*root().glob(f"{environment.key}.*{UNFINISHED}"), environment.folder):
        shutil.rmtree(left, ignore_errors=True)


def _variables(private: Collection[str]) -> dict[str, str]:
    """Return the variables of pip, without those that would make it install elsewhere or see other packages."""
    found = {name: value for name, value in os.environ.items() if name not in private and name not in _OF_PYTHON}
    return found | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


class _Pip:
    """Runs pip for the Python of an environment. Its processes hold the lock too, so that those that survive a killed
    install keep another one waiting."""

    def __init__(self, lock: int, report: Report, variables: Mapping[str, str], on_terminal: bool) -> None:
        self._lock = lock
        self._report = report
        self._variables = variables
        self._on_terminal = on_terminal
        self.own = importlib.util.find_spec("pip") is None  # Penstock's environment has none: use that of the new one

    def install(self, python: Path, requirements: Path, count: int) -> None:
        """Install requirements. Raises CannotStart."""
        pip = (python, "-m", "pip") if self.own else (sys.executable, "-m", "pip", "--python", python)
        command = (*pip, "install", *_OPTIONS, "-r", requirements)
        if self._on_terminal:
            status, last = self._run(command, None), ""
        else:
            kept: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
            progress = _Progress(count, self._report)

            def take(line: str) -> None:
                kept.append(line)
                progress.take(line)

            status = self._run(command, take)
            last = "\n".join(kept)
        if status:
            raise CannotStart(_problem(status, last))

    def check(self, python: Path) -> None:
        """Import what a replica needs. Raises CannotStart."""
        kept: list[str] = []
        if self._run((python, "-c", "import msgspec, pydantic"), kept.append):
            raise CannotStart("replicas cannot run in the environment:\n" + "\n".join(kept[-_LAST_LINES:]))

    def _run(self, command: Sequence[str | Path], take: Report | None) -> int:
        with subprocess.Popen(  # noqa: S603 - a list of arguments, and never a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if take is None else subprocess.PIPE,
            stderr=None if take is None else subprocess.STDOUT,
            env=self._variables,
            pass_fds=(self._lock,),
            start_new_session=True,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in process.stdout or ():
                    assert take is not None  # noqa: S101 - otherwise there is no pipe
                    take(line.rstrip())
                return process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise


class _Progress:
    """Reports what pip does: ``3/45 numpy``."""

    def __init__(self, count: int, report: Report) -> None:
        self._count = count
        self._report = report
        self._collected = 0

    def take(self, line: str) -> None:
        """Read a line of pip's output."""
        if found := _PACKAGE.match(line):
            self._collected += 1
            self._report(f"{min(self._collected, self._count)}/{self._count} {found[1]}")
        elif found := re.match(r"\s+Downloading (\S+) \((.*)\)", line):
            self._report(f"  downloading {found[1].rpartition('/')[2]} ({found[2]})")
        elif line.startswith(("Installing collected", "Building wheel")):
            self._report(line.partition(":")[0] + " …")


def _problem(status: int, last: str) -> str:
    if _UNREACHABLE.search(last):
        return (
            "the package index cannot be reached. Connect this machine to it, or set pip's variable PIP_INDEX_URL to "
            f"another one, or PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder of wheels. pip says:\n{last}"
        )
    where = f":\n{last}" if last else "; its output is above"
    return f"pip could not install the packages (exit status {status}){where}"


def _build(environment: Environment, building: Path, pip: _Pip) -> None:
    try:
        venv.create(building, symlinks=True, with_pip=pip.own)
    except subprocess.CalledProcessError as error:
        raise CannotStart(
            "a virtual environment with pip cannot be made: install pip beside Penstock, or the package python3-venv"
        ) from error
    requirements = building / "requirements.lock"
    requirements.write_text(environment.requirements, encoding="utf-8")
    python = building / "bin" / "python"
    pip.install(python, requirements, environment.count)
    pip.check(python)
    record = Record(lock=str(environment.lock), packages=environment.count, installed_at=datetime.now(UTC))
    (building / RECORD).write_bytes(msgspec.json.encode(record))


def _move(building: Path, folder: Path) -> None:
    """Move a finished environment to its place."""
    for script in (building / "bin").iterdir():
        content = b"" if script.is_symlink() or not script.is_file() else script.read_bytes()
        if os.fsencode(building) in content:  # the first lines of scripts name the Python that runs them
            script.write_bytes(content.replace(os.fsencode(building), os.fsencode(folder)))
    os.sync()  # after a crash of the machine, a folder under its final name must not lack files
    building.rename(folder)
