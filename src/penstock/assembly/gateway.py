"""The assembly of a gateway."""

from __future__ import annotations

from functools import cached_property

from penstock.assembly.shared import Shared
from penstock.blobs.http import BlobRoutes
from penstock.gateway import server
from penstock.gateway.app import Gateway
from penstock.gateway.inputs import InputCheck
from penstock.gateway.job_metrics import observe_batch
from penstock.gateway.system import SystemRoutes
from penstock.jobs import part as jobs
from penstock.models import part as models
from penstock.part import Part
from penstock.providers.http.comparisons import ComparisonRoutes
from penstock.providers.http.status import ProviderStatusRoutes
from penstock.providers.status import ProvidersWatch
from penstock.settings import Settings
from penstock.sidecar.infra import Infra, InfraRoutes
from penstock.web.route import routes_of


class GatewayAssembly(Shared):
    """The parts of a gateway."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, role="gateway", observe_batch=observe_batch)

    @cached_property
    def providers(self) -> ProvidersWatch:
        return ProvidersWatch(self.catalogue, self.database, self.models.host)

    @cached_property
    def infra(self) -> Infra:
        return Infra(self.settings)

    @cached_property
    def gateway(self) -> Gateway:
        """All parts, in the order in which they start; they stop in reverse."""
        inputs = InputCheck(self.models, self.catalogue)
        return Gateway(
            self.settings,
            [
                models.part(self.models, max_call_bytes=self.settings.penstock_max_call_bytes, load=self.load_upload),
                jobs.part(self.jobs, self.settings, check=inputs, known=inputs.names, explain=inputs.problem),
                Part(routes=routes_of(ComparisonRoutes(self.jobs))),
                Part(routes=routes_of(BlobRoutes(self.blobs))),
                Part(routes=routes_of(SystemRoutes(self.database, self.jobs))),
                Part(routes=routes_of(ProviderStatusRoutes(self.providers)), stop=self.providers.close),
                Part(routes=routes_of(InfraRoutes(self.infra)), stop=self.infra.close),
            ],
        )


async def run(parts: GatewayAssembly) -> None:
    """The process ``penstock gateway``."""
    try:
        await server.run(parts.gateway, parts.settings)
    finally:
        await parts.close()
