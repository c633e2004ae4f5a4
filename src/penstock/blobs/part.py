"""The part of blobs in a gateway."""

from __future__ import annotations

from penstock.blobs.http import BlobRoutes
from penstock.blobs.service import BlobService
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: BlobService) -> Part:
    """Return the routes of blobs."""
    return Part(routes=routes_of(BlobRoutes(service)))
