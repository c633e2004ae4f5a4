"""Makes signed URLs: those of a store or, where it has none, those of this gateway."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from penstock.access.instance import Instance
from penstock.blobs.blob import Place
from penstock.blobs.service import BlobService
from penstock.blobs.signing import Grant, sign


class SignedUrl(Struct, frozen=True, kw_only=True):
    """A URL from which anyone may read one file. Without a host it is relative to the gateway's address."""

    url: str
    expires_at: datetime


class BlobLinks:
    """Signed URLs of blobs. With ``presigns``, a store makes URLs that lead to itself."""

    def __init__(self, service: BlobService, instance: Instance, *, presigns: bool) -> None:
        self._service = service
        self._instance = instance
        self._presigns = presigns

    async def make(self, tenant: int, blob_id: UUID, ttl: timedelta) -> SignedUrl:
        """Return a URL that is valid for ``ttl``, but not longer than the blob exists.

        Raises NotFound, BlobStoreUnavailable and DatabaseUnavailable.
        """
        found = await self._service.find(tenant, blob_id)
        expires_at = min(found.read_at + ttl, found.blob.expires_at).replace(microsecond=0)
        url = await self._presigned(found.place, expires_at - found.read_at)
        if url is None:
            secret = await self._instance.secret_now()
            grant = Grant(tenant=tenant, blob_id=found.blob.id, expires_at=expires_at)
            url = f"/api/v1/blobs/signed/{sign(secret, grant)}"
        return SignedUrl(url=url, expires_at=expires_at)

    async def _presigned(self, place: Place, expires_in: timedelta) -> str | None:
        if not self._presigns:
            return None
        objects = await self._service.stores.holding(place.store_id)
        return await objects.signed_url(place.key, max(expires_in, timedelta(seconds=1)))
