"""The part of providers in a gateway."""

from __future__ import annotations

from penstock.jobs.service import JobService
from penstock.part import Part
from penstock.providers.http.comparisons import ComparisonRoutes
from penstock.providers.http.status import ProviderStatusRoutes
from penstock.providers.status import ProvidersWatch
from penstock.web.route import routes_of


def part(watch: ProvidersWatch, jobs: JobService) -> Part:
    """Return the routes of providers: their state, and comparisons of their results over many jobs."""
    return Part(routes=[*routes_of(ComparisonRoutes(jobs)), *routes_of(ProviderStatusRoutes(watch))], stop=watch.close)
