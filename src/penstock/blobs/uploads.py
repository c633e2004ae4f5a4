"""Read uploads, for calls of models whose inputs name them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from penstock.blobs.blob import Blob
from penstock.blobs.service import BlobService
from penstock.tenants.principal import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUploads:
    """Reads the uploads of one tenant."""

    blobs: BlobService
    tenant: TenantId
    max_bytes: int  # of all uploads of one call that are held in memory

    async def find(self, upload_id: UUID) -> Blob:
        """Return the description of an upload. Raises NotFound."""
        return await self.blobs.get(self.tenant, upload_id)

    def read(self, upload_id: UUID) -> AsyncIterator[bytes]:
        """Yield the bytes of an upload, up to 512 KiB at a time. Raises NotFound, BlobStoreUnavailable."""
        return self.blobs.read(self.tenant, upload_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Reads uploads; a call may hold ``max_bytes`` of them in memory."""

    blobs: BlobService
    max_bytes: int

    def of(self, tenant: TenantId) -> TenantUploads:
        """Return that tenant's uploads."""
        return TenantUploads(blobs=self.blobs, tenant=tenant, max_bytes=self.max_bytes)
