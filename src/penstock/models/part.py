"""What models offer to a gateway."""

from __future__ import annotations

from penstock.models.http.backend import BackendRoutes
from penstock.models.http.calls import CallRoutes
from penstock.models.http.logs import LogRoutes
from penstock.models.http.registry import RegistryRoutes
from penstock.models.service import ModelService
from penstock.models.uploads import Load
from penstock.part import Part


def part(service: ModelService, *, max_call_bytes: int, load: Load) -> Part:
    """The routes of models; ``load`` reads uploads that inputs name."""
    return Part(
        routes=[
            *CallRoutes(service, max_call_bytes=max_call_bytes, load=load).all(),
            *RegistryRoutes(service).all(),
            *LogRoutes(service).all(),
            *BackendRoutes(service, max_call_bytes=max_call_bytes, load=load).all(),
        ],
        start=service.start,
        stop=service.stop,
    )
