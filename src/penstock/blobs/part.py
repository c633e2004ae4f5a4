"""The part of blobs in a gateway."""

from __future__ import annotations

from penstock.access.instance import Instance
from penstock.blobs.http.files import BlobRoutes
from penstock.blobs.http.uploads import UploadRoutes
from penstock.blobs.http.urls import SignedUrlRoutes
from penstock.blobs.links import BlobLinks
from penstock.blobs.parted import PartedUploads
from penstock.blobs.service import BlobService
from penstock.part import Part
from penstock.quotas.admission import Quotas
from penstock.web.route import routes_of


def part(service: BlobService, uploads: PartedUploads, *, quotas: Quotas, instance: Instance, links: BlobLinks) -> Part:
    """Return the routes of blobs; ``quotas`` admit uploads."""
    return Part(
        routes=[
            *routes_of(BlobRoutes(service, quotas)),
            *routes_of(UploadRoutes(uploads, quotas)),
            *routes_of(SignedUrlRoutes(service, instance, links)),
        ]
    )
