"""The environments that are installed on this machine: list them, and remove old ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from penstock.models.environments.environment import RECORD, root
from penstock.models.environments.holding import Busy, held, raise_busy


class Record(Struct, kw_only=True):
    """What is stored in an environment about its install."""

    lock: str  # the path of the lock file, where it was installed from
    packages: int
    installed_at: datetime


class Installed(Struct, kw_only=True):
    """One environment on this machine, or what an unfinished install has left."""

    key: str
    lock: str = ""
    packages: int = 0
    bytes: int
    installed_at: datetime | None = None  # None: the install has not ended
    used_at: datetime | None = None
    in_use: bool = False  # processes run in it


def installed() -> list[Installed]:
    """Return all environments, with the sizes of their files, the one used last first."""
    running = list(_running())
    found = [_read(folder, running) for folder in root().iterdir() if folder.is_dir()] if root().is_dir() else []
    return sorted(found, key=lambda one: one.used_at or datetime.min.replace(tzinfo=UTC), reverse=True)


def prune(*, unused_for: timedelta) -> list[Installed]:
    """Remove environments that were not used for a time and in which nothing runs, and what unfinished installs have
    left; return what was removed."""
    before = datetime.now(UTC) - unused_for
    return [one for one in installed() if _is_old(one, before) and remove(one.key, unused_since=before)]


def remove(key: str, *, unused_since: datetime) -> bool:
    """Remove an environment, unless it is being installed, or was used since then, or processes run in it now.

    This is read again under its lock, because a list of environments takes long enough for one to be used meanwhile.
    """
    folder = root() / key
    try:
        with held(key.partition(".")[0], before_waiting=raise_busy):
            if not _is_old(_read(folder, list(_running())), unused_since):
                return False
            (folder / RECORD).unlink(missing_ok=True)  # first, so that one that is half removed is not taken for whole
            shutil.rmtree(folder, ignore_errors=True)
    except Busy:
        return False
    return True


def _is_old(one: Installed, before: datetime) -> bool:
    return not one.in_use and (one.used_at is None or one.used_at < before)


def _read(folder: Path, running: list[str]) -> Installed:
    try:
        content = (folder / RECORD).read_bytes()
        used_at = datetime.fromtimestamp((folder / RECORD).stat().st_mtime, UTC)
        record = msgspec.json.decode(content, type=Record)
    except (OSError, msgspec.MsgspecError):
        return Installed(key=folder.name, bytes=_size(folder), in_use=_runs_in(folder, running))
    return Installed(
        key=folder.name,
        lock=record.lock,
        packages=record.packages,
        bytes=_size(folder),
        installed_at=record.installed_at,
        used_at=used_at,
        in_use=_runs_in(folder, running),
    )


def _running() -> Iterator[str]:
    """Yield the arguments of all processes of this machine that may be seen."""
    for process in psutil.process_iter(["cmdline"]):
        yield from process.info["cmdline"] or ()


def _runs_in(folder: Path, running: list[str]) -> bool:
    inside = f"{folder}/"
    return any(argument.startswith(inside) for argument in running)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
