"""The part of sidecars in a gateway."""

from __future__ import annotations

from penstock.part import Part
from penstock.sidecar.infra import Infra, InfraRoutes
from penstock.web.route import routes_of


def part(infra: Infra) -> Part:
    """Return the route that shows the telemetry of all sidecars."""
    return Part(routes=routes_of(InfraRoutes(infra)), stop=infra.close)
