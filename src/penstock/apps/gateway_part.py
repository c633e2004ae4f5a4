"""The part of apps in a gateway. Gateways read manifests from the database, so they need no folder of apps."""

from __future__ import annotations

from penstock.apps.http.calling import CallRoutes
from penstock.apps.http.reading import ReadRoutes
from penstock.apps.http.statistics import StatisticsRoutes
from penstock.apps.results import Results
from penstock.apps.service import AppService
from penstock.apps.statistics import Statistics
from penstock.blobs.links import BlobLinks
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: AppService, submit: SubmitRoutes, links: BlobLinks, statistics: Statistics) -> Part:
    """Return the routes of apps."""
    results = Results(service, statistics, links)
    topics = (CallRoutes(service, submit, results), ReadRoutes(service, results), StatisticsRoutes(service, statistics))
    return Part(routes=[route for topic in topics for route in routes_of(topic)])
