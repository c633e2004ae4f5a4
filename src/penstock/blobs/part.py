"""The part of blobs in a gateway."""

from __future__ import annotations

from penstock.blobs.http import BlobRoutes
from penstock.blobs.service import BlobService
from penstock.part import Part
from penstock.quotas.admission import Quotas
from penstock.web.route import routes_of


def part(service: BlobService, *, quotas: Quotas) -> Part:
    """Return the routes of blobs; ``quotas`` admit uploads."""
    return Part(routes=routes_of(BlobRoutes(service, quotas)))
