"""The part of models in a gateway."""

from __future__ import annotations

from penstock.blobs.uploads import Uploads
from penstock.models.http.backend import BackendRoutes
from penstock.models.http.calls import CallRoutes
from penstock.models.http.logs import LogRoutes
from penstock.models.http.metering import Metering
from penstock.models.http.registry import RegistryRoutes
from penstock.models.service import ModelService
from penstock.part import Part
from penstock.quotas.admission import Quotas
from penstock.usage.live import LiveUsage
from penstock.web.route import routes_of


def part(
    service: ModelService, *, max_call_bytes: int, uploads: Uploads, quotas: Quotas, usage: LiveUsage | None = None
) -> Part:
    """Return the routes of models; ``uploads`` reads the uploads that inputs name, ``quotas`` admit calls,
    and ``usage`` accounts them."""
    metering = Metering(usage)
    topics = (
        CallRoutes(service, max_call_bytes=max_call_bytes, uploads=uploads, metering=metering, quotas=quotas),
        RegistryRoutes(service),
        LogRoutes(service),
        BackendRoutes(service, max_call_bytes=max_call_bytes, uploads=uploads, metering=metering, quotas=quotas),
    )
    return Part(
        routes=[route for topic in topics for route in routes_of(topic)],
        start=service.start,
        stop=service.stop,
    )
