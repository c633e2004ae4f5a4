"""The part of models in a gateway."""

from __future__ import annotations

from penstock.models.http.backend import BackendRoutes
from penstock.models.http.calls import CallRoutes
from penstock.models.http.logs import LogRoutes
from penstock.models.http.registry import RegistryRoutes
from penstock.models.service import ModelService
from penstock.models.uploads import Load
from penstock.part import Part
from penstock.web.route import routes_of


def part(service: ModelService, *, max_call_bytes: int, load: Load) -> Part:
    """Return the routes of models; ``load`` reads uploads that inputs refer to."""
    topics = (
        CallRoutes(service, max_call_bytes=max_call_bytes, load=load),
        RegistryRoutes(service),
        LogRoutes(service),
        BackendRoutes(service, max_call_bytes=max_call_bytes, load=load),
    )
    return Part(
        routes=[route for topic in topics for route in routes_of(topic)],
        start=service.start,
        stop=service.stop,
    )
