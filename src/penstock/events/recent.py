"""The newest rows of each tenant in Redis, from which the tails of gateways read them instead of from PostgreSQL.

The relay to Redis appends each row under its position, with the mark of the row before it. Positions are dense, so a
reader recognizes what it may use: the row with the next position whose predecessor is the row that it has read last.
For anything else, and whenever Redis does not have the next row, it reads PostgreSQL. The rows expire after five
minutes without a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from penstock.brokers.broker import BrokerUnavailable
from penstock.brokers.redis import Redis
from penstock.events.event import StoredEvent
from penstock.events.position import Position, mark_of

_KEPT: Final = 2000  # rows of a tenant
_MAX_ROW_BYTES: Final = 2**14  # a larger row is left out, so that readers find it in PostgreSQL
_PAGE: Final = 200  # rows that one read returns
_EXPIRES: Final = timedelta(minutes=5)
_FIELD: Final = b"row"
_COLUMNS: Final = tuple(one.name for one in fields(StoredEvent) if one.name != "data")


class _Entry(Struct, frozen=True, array_like=True):
    """A row in Redis."""

    before: int  # the mark of the row before it; 0 for the first
    position: int
    at: datetime
    kind: str
    subject: str | None
    job_id: UUID | None
    job_ids: list[UUID] | None
    series_ids: list[int] | None
    epochs: list[int] | None
    attempts: list[int] | None
    first: int | None
    data: bytes | None  # JSON
    run_ids: list[UUID | None] | None

    @classmethod
    def of(cls, row: StoredEvent, before: int) -> _Entry:
        stated: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
        return cls(before=before, data=None if row.data is None else bytes(row.data), **stated)

    @property
    def row(self) -> StoredEvent:
        stated: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        return StoredEvent(data=None if self.data is None else Raw(self.data), **stated)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)


class RecentRows:
    """Appends rows, and reads those behind a position."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @property
    def connected(self) -> bool:
        """Whether Redis can be used now."""
        return self._redis.connected.is_set()

    async def append(self, tenant: int, behind: Position, rows: Sequence[StoredEvent]) -> None:
        """Append rows that follow a position. Raises BrokerUnavailable.

        Rows that Redis has already are not appended again. If it has later ones, because PostgreSQL was restored, all
        of its rows are replaced.
        """
        entries = list(_entries(behind, rows))
        if not entries:
            return
        key = _key(tenant)
        with self._redis.client() as client:
            newest: Any = await client.xrevrange(key, count=1)
            last = _position(newest[0][0]) if newest else 0
            if last >= entries[0][0]:
                await client.delete(key)
            pipeline = client.pipeline(transaction=False)
            for position, data in entries:
                pipeline.xadd(key, {_FIELD: data}, id=f"{position}-1", maxlen=_KEPT, approximate=True)
            pipeline.expire(key, _EXPIRES)
            await pipeline.execute(raise_on_error=False)  # another relay may have appended one

    async def read(self, tenant: int, behind: Position) -> list[StoredEvent] | None:
        """Return the rows that follow ``behind``, as far as Redis has them; None if it cannot be used or has others."""
        try:
            with self._redis.client() as client:
                found: Any = await client.xrange(_key(tenant), min=f"({behind.number}-1", count=_PAGE)
        except BrokerUnavailable:
            return None
        rows: list[StoredEvent] = []
        number, mark = behind.number, behind.mark
        for name, stated in found:
            number += 1
            try:
                entry = _decoder.decode(stated[_FIELD])
            except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, OverflowError):
                return rows or None
            if (_position(name), entry.position, entry.before) != (number, number, mark):
                return rows or None
            rows.append(entry.row)
            mark = mark_of(entry.at)
        return rows


def _entries(behind: Position, rows: Sequence[StoredEvent]) -> list[tuple[int, bytes]]:
    """Return the positions and the encoded rows, without those that are too large."""
    entries, mark = [], behind.mark
    for row in rows:
        if row.size <= _MAX_ROW_BYTES:
            entries.append((row.position, _encoder.encode(_Entry.of(row, mark))))
        mark = mark_of(row.at)
    return entries


def _key(tenant: int) -> str:
    return f"penstock:recent:{tenant}"


def _position(name: bytes) -> int:
    return int(name.partition(b"-")[0])
