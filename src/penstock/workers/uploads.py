"""Read uploads for models."""

from __future__ import annotations

from uuid import UUID

from penstock.blobs.service import BlobService
from penstock.models.uploads import Upload
from penstock.tenants.principal import DEFAULT_TENANT, TenantId


class UploadLoader:
    """Reads the uploads of a tenant that inputs of models refer to."""

    def __init__(self, blobs: BlobService, *, max_bytes: int, tenant: TenantId = DEFAULT_TENANT) -> None:
        self.max_bytes = max_bytes
        self._blobs = blobs
        self._tenant = tenant

    async def __call__(self, upload_id: UUID, *, max_bytes: int) -> Upload:
        blob, data = await self._blobs.whole(self._tenant, upload_id, max_bytes=max_bytes)
        return Upload(data=data, media_type=blob.media_type, name=blob.filename)
