"""The interface of stores of objects, and the keys of objects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from penstock.errors import PenstockError

MARK: Final = "penstock-store"  # the key of the object that holds the store's id
MAX_KEY: Final = 512  # characters

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class ObjectMissing(PenstockError):
    """A store does not have the object."""

    code = "object_missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The headers that a store may keep with an object, so that it can serve the object itself."""

    media_type: str
    disposition: str  # the header Content-Disposition
    size: int | None = None  # bytes, if known beforehand


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """An object in a listing."""

    key: str
    size: int
    modified_at: datetime


class ObjectStore(Protocol):
    """A store of objects. Keys are valid by ``check_key``; each is written once.

    The methods raise BlobStoreUnavailable when the store cannot be reached or used.
    """

    url: str  # without credentials

    async def write(self, key: str, chunks: AsyncIterator[bytes], description: Description) -> None:
        """Store the bytes of ``chunks`` durably. An exception of ``chunks`` is raised unchanged."""
        ...

    def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` to before ``end``, a few hundred kilobytes at a time. Raises ObjectMissing."""
        ...

    async def remove(self, key: str) -> None:
        """Remove an object, and the remains of an unfinished write. The object need not exist."""
        ...

    async def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if there is none."""
        ...

    async def listed(self, *, after: str, limit: int) -> list[ListedObject]:
        """Return objects after the key ``after``, in the order of their keys' bytes; fewer than ``limit`` only at the
        end."""
        ...

    async def read_mark(self) -> bytes | None:
        """Return the content of the object ``MARK``; None if there is none."""
        ...

    async def write_mark(self, content: bytes) -> None:
        """Create the object ``MARK``, unless it exists."""
        ...

    async def signed_url(self, key: str, expires_in: timedelta) -> str | None:
        """Return a URL from which anyone may read the object, or None if the store has no such URLs."""
        ...


def check_key(key: str) -> str:
    """Return ``key`` if it is the valid key of an object; raises ValueError.

    A key consists of names between slashes. No name begins with a dot, so that none leads out of a folder.
    """
    if len(key) > MAX_KEY or not all(_SEGMENT.fullmatch(name) for name in key.split("/")):
        raise ValueError(f"not the key of an object: {key[:MAX_KEY]!r}")
    return key


def tenant_of(key: str) -> int | None:
    """Return the tenant that owns the object with this key, or None if it is not the key of an object."""
    first, slash, _ = key.partition("/")
    return int(first) if slash and first.isascii() and first.isdigit() and len(first) < 10 else None
