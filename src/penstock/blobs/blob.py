"""The description of a blob, and the place of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from msgspec import Struct

PART_BYTES: Final = 512 * 1024  # of each part but the last of an object in PostgreSQL
POSTGRES: Final = UUID(int=0)  # the id of PostgreSQL as a store


class Blob(Struct, frozen=True, kw_only=True):
    """An uploaded file. It never changes; after ``expires_at`` it is gone."""

    id: UUID
    media_type: str
    filename: str | None
    size_bytes: int
    sha256: str
    created_at: datetime
    expires_at: datetime


class Place(NamedTuple):
    """Where the bytes of a blob are: an object in a store."""

    store_id: UUID
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob with the place of its bytes."""

    blob: Blob
    place: Place
    missing_at: datetime | None  # when its object was found to be missing
    read_at: datetime  # by the clock of the database
