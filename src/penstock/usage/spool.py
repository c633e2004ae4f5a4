"""Files that hold the calls which are not yet flushed, so that they survive the end of their process.

A file is mapped into memory, with its space allocated: appending a call costs a copy, and what was copied survives
SIGKILL, because the pages belong to the kernel. It does not survive a crash of the machine, which can lose the calls of
a second, because calls are flushed within that time. A file belongs to one flush, whose number its name and head hold.
Its process holds a lock on it; a file without a lock belongs to a process that has ended, and another one flushes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgspec

from penstock.tenants.principal import TenantId
from penstock.usage.calls import Amounts, Dims, Sums

_HEAD: Final = Struct("@8s16sQ")  # magic, source, number
_USED: Final = Struct("@Q")  # bytes used, at _USED_AT: written last, in one aligned store
_USED_AT: Final = 32
_BEGIN: Final = 40
_LENGTH: Final = Struct("@I")
_MAGIC: Final = b"PSUSAGE1"
_SUFFIX: Final = ".usage"
FIRST_BYTES: Final = 2**20  # of a new file

_MAX_INTEGER: Final = 2**63  # of MessagePack; larger costs are written as text
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(
    tuple[tuple[int, str, str, str, str, str, str, str, int], float, list[int | str]]
)


def spool_name(database_url: str) -> str:
    """Return the name of the folder for one database, as usage must not be flushed to another. Passwords may change."""
    address = urlsplit(database_url)
    database = (address.hostname, address.port, address.path, sorted(parse_qs(address.query).get("host", [])))
    return hashlib.sha256(repr(database).encode()).hexdigest()[:16]


class SpoolFull(Exception):
    """A call does not fit into the file."""


class SpoolFile:
    """The calls of one flush, in a file that this process has created and locked."""

    def __init__(self, folder: Path, source: UUID, number: int, *, size: int = FIRST_BYTES) -> None:
        self.path = folder / f"{source.hex}.{number}{_SUFFIX}"
        self.source = source
        self.number = number
        self.size = size
        self._create(self._temporary, size)
        self._temporary.replace(self.path)  # now that it is locked: a file without a lock has been abandoned

    @property
    def _temporary(self) -> Path:
        return self.path.with_suffix(".tmp")

    def _create(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, size)  # a full disk is an error now, not a signal later
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise
        self._descriptor = descriptor
        _HEAD.pack_into(self._map, 0, _MAGIC, self.source.bytes, self.number)
        self._position = _BEGIN
        _USED.pack_into(self._map, _USED_AT, _BEGIN)

    def append(self, dims: Dims, ended: float, amounts: Amounts) -> None:
        """Add a call that ended at ``ended`` (seconds since 1970, by the machine's clock). Raises SpoolFull."""
        cost: int | str = amounts.cost
        if amounts.cost >= _MAX_INTEGER:
            cost = str(cost)
        record = _encoder.encode((dims, ended, (*amounts[:-1], cost)))
        end = self._position + _LENGTH.size + len(record)
        if end > self.size:
            raise SpoolFull
        _LENGTH.pack_into(self._map, self._position, len(record))
        self._map[self._position + _LENGTH.size : end] = record
        self._position = end
        _USED.pack_into(self._map, _USED_AT, end)

    def rewrite(self, sums: Sums, *, size: int, shift: float) -> None:
        """Replace the calls by their sums, in a file of ``size`` bytes that takes the old one's place at once.

        ``shift`` is added to the times of ``sums``. Raises SpoolFull and OSError; then the old file is as it was.
        """
        old_map, old_descriptor, old_size, old_position = self._map, self._descriptor, self.size, self._position
        self._create(self._temporary, size)
        self.size = size
        try:
            for dims, (ended, amounts) in sums.rows.items():
                self.append(dims, ended + shift, amounts)
            self._temporary.replace(self.path)
        except BaseException:
            self._map.close()
            os.close(self._descriptor)
            with suppress(OSError):
                self._temporary.unlink()
            self._map, self._descriptor, self.size, self._position = old_map, old_descriptor, old_size, old_position
            raise
        old_map.close()
        os.close(old_descriptor)

    @property
    def used(self) -> int:
        """Bytes that hold calls."""
        return self._position

    def remove(self) -> None:
        """Remove the file, whose calls are in the database."""
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Leave the file to another process."""
        self._map.close()
        os.close(self._descriptor)


class AbandonedFile:
    """A file whose process has ended. Raises ValueError for anything else."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        if len(content) < _BEGIN:
            raise ValueError("it is too short")
        magic, source, self.number = _HEAD.unpack_from(content, 0)
        if magic != _MAGIC:
            raise ValueError("it is not a file of usage")
        self.source = UUID(bytes=source)
        self._content = content

    def read(self) -> Sums:
        """Return the sums of the file's calls; their times are seconds since 1970. Raises ValueError."""
        sums = Sums()
        position, (end,) = _BEGIN, _USED.unpack_from(self._content, _USED_AT)
        if end > len(self._content):
            raise ValueError("it is shorter than its head says")
        while position < end:
            (length,) = _LENGTH.unpack_from(self._content, position)
            position += _LENGTH.size
            try:
                dims, ended, amounts = _decoder.decode(self._content[position : position + length])
            except msgspec.MsgspecError as error:
                raise ValueError(f"a record is damaged: {error}") from error
            tenant, key, user, provider, model, version, app, price, quarter = dims
            known = Dims(TenantId(tenant), key, user, provider, model, version, app, price, quarter)
            sums.add(known, ended, Amounts(*map(int, amounts)))
            position += length
        return sums

    def remove(self) -> None:
        """Remove the file, whose calls are in the database."""
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Rename the file, so that it is kept for a person but not read again."""
        with suppress(OSError):
            self.path.replace(self.path.with_suffix(".unread"))


def abandoned(folder: Path) -> Iterator[AbandonedFile]:
    """Yield the files of processes that have ended, each locked until the next one is requested.

    The files of one process come in the order of their numbers, because a flush is refused after a later one. If one
    of them is locked by another process, the later ones are left to that process.
    """
    taken: set[str] = set()
    for path in sorted(folder.glob(f"*{_SUFFIX}"), key=_order):
        source = _order(path)[0]
        if source in taken:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another process has flushed and removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            taken.add(source)
        else:
            if os.fstat(descriptor).st_nlink and (file := _opened(path)) is not None:
                yield file
        finally:
            os.close(descriptor)


def _opened(path: Path) -> AbandonedFile | None:
    try:
        return AbandonedFile(path, path.read_bytes())
    except ValueError:
        path.replace(path.with_suffix(".unread"))
        return None


def _order(path: Path) -> tuple[str, int]:
    source, _, number = path.name.removesuffix(_SUFFIX).partition(".")
    return (source, int(number) if number.isdigit() else 0)
