"""The account that the embedded PostgreSQL runs under, because PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from penstock.errors import CannotStart

USER: Final = "penstock"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account that runs PostgreSQL; ``uid`` is None for the account of this process."""

    uid: int | None
    gid: int | None

    def own(self, path: Path) -> None:
        """Make this account the owner of ``path``, unless it is the account of this process."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_pass(self, folder: Path) -> bool:
        """Return whether the mode bits of ``folder`` let this account enter it."""
        status = folder.stat()
        if self.uid is None:
            return True
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def open_way_to(self, path: Path) -> None:
        """Let this account enter every folder above ``path``, without letting it list them.

        A data folder or a virtual environment often lies below a folder that only root may enter (/root, or one
        made by mktemp). Only the execute bit for others is added, and only where it is missing.
        """
        for folder in reversed(path.parents):
            if not self.can_pass(folder):
                _set_mode(folder, stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
                log.warning("folder_opened", folder=str(folder), user=USER, added="o+x", reason=str(path))

    def open_tree(self, root: Path) -> None:
        """Let this account read and run all files below ``root``, a folder of installed programs."""
        if self.uid is None:
            return
        changed = 0
        for path in (root, *_below(root)):
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            if wanted != mode:
                _set_mode(path, wanted)
                changed += 1
        if changed:
            log.warning("programs_opened", folder=str(root), user=USER, added="o+rX", paths=changed)


def choose() -> Account:
    """Return the account of this process or, for root, the system user ``penstock``, which is created if missing."""
    if os.geteuid() != 0:
        return Account(uid=None, gid=None)
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        _create_user()
        entry = pwd.getpwnam(USER)
    if entry.pw_uid == 0:
        raise CannotStart(f"The system user {USER} is root; PostgreSQL refuses to run as root.")
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _create_user() -> None:
    home = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    for command in (["useradd", "--system", "--user-group", *home, USER], ["adduser", "-S", "-D", "-H", USER]):
        if not (program := shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin:/bin")):
            continue
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        if _exists():  # also when another process created it at the same moment
            log.info("user_created", user=USER, reason="PostgreSQL does not run as root")
            return
        raise CannotStart(
            f"PostgreSQL does not run as root, and the system user {USER} could not be created "
            f"({done.stderr.strip()}). Create it, start Penstock as another user, or set DATABASE_URL."
        )
    raise CannotStart(
        f"PostgreSQL does not run as root, and there is no useradd or adduser to create the system user {USER}. "
        "Create it, start Penstock as another user, or set DATABASE_URL."
    )


def _set_mode(path: Path, mode: int) -> None:
    try:
        path.chmod(mode)
    except OSError as error:
        raise CannotStart(
            f"PostgreSQL runs as the user {USER}, which cannot reach {path}, and that cannot be changed "
            f"({error.strerror}). Allow it, start Penstock as another user, or set DATABASE_URL."
        ) from error


def _exists() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if not path.is_symlink())
