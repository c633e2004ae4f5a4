"""The virtual environment of a lock file: its key, its folder, and whether it is installed."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import platformdirs
from msgspec import Struct

from penstock.models.environments import lock_file

RECORD: Final = "penstock.json"  # written last: what was installed. Its time of change is when it was last used
_KEY_DIGITS: Final = 24
_NEEDS: Final = Path(__file__).with_name("replica.lock")  # what a replica imports


class Environment(Struct, frozen=True, kw_only=True):
    """The environment of one lock file, for this Python and platform."""

    lock: Path
    key: str  # by the content of the lock file, the version of Python, and the platform
    requirements: str  # the packages of the lock file, and those that a replica needs besides
    count: int  # packages in ``requirements``

    @property
    def folder(self) -> Path:
        """Its folder. The environment is read from the user's cache, so it differs between users."""
        return root() / self.key

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether it is whole. A folder appears under its name only when everything is in it."""
        try:
            return (self.folder / RECORD).is_file() and self.python.exists()  # the Python that made it may be gone
        except OSError:  # it belongs to another user, and is not for others
            return False

    def note_use(self) -> None:
        """Record that it is used now, for those that remove old ones."""
        with suppress(OSError):  # it may belong to another user
            os.utime(self.folder / RECORD)


def root() -> Path:
    """Return the folder of all environments of this user."""
    return platformdirs.user_cache_path("penstock") / "environments"


def of_lock(lock: Path) -> Environment:
    """Return the environment of a lock file. Raises ValueError if that cannot be used."""
    pinned = lock_file.pins(lock_file.read(lock))
    needed = lock_file.missing(lock_file.pins(_NEEDS.read_bytes()), pinned)
    requirements = "".join(f"{pin.text}\n" for pin in (*pinned, *needed))
    return Environment(lock=lock, key=_key(requirements), requirements=requirements, count=len(pinned) + len(needed))


def first_installed(environments: Sequence[Environment]) -> Environment | None:
    """Return the first of several alternatives that is installed."""
    return next((one for one in environments if one.installed), None)


def _key(requirements: str) -> str:
    parts = (requirements, sys.implementation.cache_tag or "", sysconfig.get_platform())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_KEY_DIGITS]
