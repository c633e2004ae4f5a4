"""Uploads as models read them."""

from __future__ import annotations

from uuid import UUID

from penstock.blobs.service import BlobService
from penstock.jobs.store import DEFAULT_TENANT, TenantId
from penstock.models.uploads import Load, Upload


def loader(blobs: BlobService, *, most_bytes: int, tenant: TenantId = DEFAULT_TENANT) -> Load:
    """What reads a tenant's uploads of at most so many bytes, for inputs that name them."""

    async def load(blob_id: UUID) -> Upload:
        blob, data = await blobs.whole(tenant, blob_id, most_bytes=most_bytes)
        return Upload(data=data, media_type=blob.media_type, name=blob.filename)

    return load
