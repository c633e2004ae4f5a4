"""The part of usage in a gateway."""

from __future__ import annotations

from penstock.part import Part
from penstock.postgres.pool import Database
from penstock.usage.http import UsageRoutes
from penstock.usage.live import LiveUsage
from penstock.web.route import routes_of


def part(live: LiveUsage, database: Database) -> Part:
    """Return the routes of usage, and the recorder of live calls, which must stop after the models it records."""
    return Part(
        routes=routes_of(UsageRoutes(database, currency=live.prices.currency)), start=live.start, stop=live.stop
    )
