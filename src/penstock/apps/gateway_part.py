"""The part of apps in a gateway. Gateways read manifests from the database, so they need no folder of apps."""

from __future__ import annotations

from penstock.apps.http.calling import CallRoutes
from penstock.apps.http.reading import ReadRoutes
from penstock.apps.service import AppService
from penstock.blobs.links import BlobLinks
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: AppService, submit: SubmitRoutes, links: BlobLinks) -> Part:
    """Return the routes of apps."""
    topics = (CallRoutes(service, submit, links), ReadRoutes(service, links))
    return Part(routes=[route for topic in topics for route in routes_of(topic)])
