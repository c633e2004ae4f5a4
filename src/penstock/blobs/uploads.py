"""Read uploads whole, for calls of models whose inputs name them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from penstock.blobs.service import BlobService
from penstock.tenants.principal import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file as it was uploaded."""

    data: bytes
    media_type: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUploads:
    """Reads the uploads of one tenant."""

    blobs: BlobService
    tenant: TenantId
    max_bytes: int  # of all uploads of one call

    async def read(self, upload_id: UUID, *, max_bytes: int) -> Upload:
        """Return an upload of at most ``max_bytes``. Raises NotFound, TooLarge."""
        blob, data = await self.blobs.whole(self.tenant, upload_id, max_bytes=max_bytes)
        return Upload(data=data, media_type=blob.media_type, name=blob.filename)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Reads uploads; those of one call may have ``max_bytes`` together."""

    blobs: BlobService
    max_bytes: int

    def of(self, tenant: TenantId) -> TenantUploads:
        """Return that tenant's uploads."""
        return TenantUploads(blobs=self.blobs, tenant=tenant, max_bytes=self.max_bytes)
