"""The description of a blob, without its bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

PART_BYTES: Final = 512 * 1024  # of each part but the last


class Blob(Struct, frozen=True, kw_only=True):
    """An uploaded file. It never changes; after ``expires_at`` it is gone."""

    id: UUID
    media_type: str
    filename: str | None
    size_bytes: int
    sha256: str
    created_at: datetime
    expires_at: datetime
