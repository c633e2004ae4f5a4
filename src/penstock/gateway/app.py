"""Assembles the gateway: routes, the access check, and the start and stop of what they need."""

from __future__ import annotations

from datetime import timedelta

from penstock.blobs.http import BlobRoutes
from penstock.blobs.service import BlobService
from penstock.gateway.access import Access
from penstock.gateway.documentation import ABOUT, DocumentationRoutes, page_routes
from penstock.gateway.inputs import InputCheck
from penstock.gateway.system import SystemRoutes
from penstock.jobs import routes as job_routes
from penstock.jobs.handlers import JobHandlers, Sizes
from penstock.jobs.service import JobService
from penstock.models.host.host import ModelHost
from penstock.models.http.backend import BackendRoutes
from penstock.models.http.calls import CallRoutes
from penstock.models.http.logs import LogRoutes
from penstock.models.http.registry import RegistryRoutes
from penstock.models.service import ModelService
from penstock.postgres.pool import Database
from penstock.providers.http.comparisons import ComparisonRoutes
from penstock.providers.http.status import ProviderStatusRoutes
from penstock.providers.profile import Catalogue
from penstock.providers.status import ProvidersWatch
from penstock.settings import Settings
from penstock.sidecar.infra import Infra, InfraRoutes
from penstock.telemetry import metrics
from penstock.web.dispatch import Dispatcher
from penstock.web.openapi import document
from penstock.web.route import AnyRoute, routes_of
from penstock.web.signals import Signal
from penstock.workers.uploads import UploadLoader

_BATCHES = metrics.histogram(
    "penstock_group_commit_jobs",
    "How many jobs one statement wrote.",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


class Gateway:
    """The routes of a gateway behind its access check, in ``application``.

    ``stopping`` is set when the process begins to stop: long-polls and streams end then.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        service: JobService,
        models: ModelService | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.stopping = Signal()
        self._service = service
        self._models = models or ModelService(ModelHost())
        self.access = Access(settings.ai_service_token)
        sizes = Sizes(
            input=settings.penstock_max_input_bytes,
            result=settings.penstock_max_result_bytes,
            batch=settings.penstock_max_batch_bytes,
        )
        catalogue = catalogue or Catalogue({}, {})
        inputs = InputCheck(self._models.host, catalogue)
        self._providers = ProvidersWatch(catalogue, database, self._models.host)
        self._infra = Infra(settings)
        system, documentation = SystemRoutes(database, service), DocumentationRoutes()
        blobs = BlobService(
            database,
            max_bytes=settings.penstock_max_blob_bytes,
            keep=timedelta(days=settings.penstock_retention_days),
        )
        most = settings.penstock_max_call_bytes
        load = UploadLoader(blobs, most_bytes=most)
        self.routes: list[AnyRoute] = [
            *CallRoutes(self._models, max_call_bytes=most, load=load).all(),
            *RegistryRoutes(self._models).all(),
            *LogRoutes(self._models).all(),
            *job_routes.routes(
                JobHandlers(
                    service,
                    sizes,
                    check=inputs,
                    known=inputs.names,
                    strict_queues=settings.penstock_strict_queues,
                )
            ),
            *routes_of(ComparisonRoutes(service)),
            *routes_of(BlobRoutes(blobs)),
            *BackendRoutes(self._models, max_call_bytes=most, load=load).all(),
            *routes_of(system),
            *routes_of(ProviderStatusRoutes(self._providers)),
            *routes_of(InfraRoutes(self._infra)),
            *routes_of(documentation),
            *page_routes(),
        ]
        documentation.openapi = document(self.routes, ABOUT, secured=self.access.guarded)
        self.application = Dispatcher(
            self.routes, self.access.check, log_requests=settings.penstock_log_level == "debug"
        )

    async def start(self) -> None:
        """Listen for wake-ups; the database need not be there."""
        await self._service.start()
        await self._models.start()

    async def stop(self) -> None:
        """End what waits and write what is queued."""
        self.stopping.set()
        await self._providers.close()
        await self._infra.close()
        await self._models.stop()
        await self._service.stop()

    @staticmethod
    def observe_batch(kind: str, size: int) -> None:
        """Measure a group commit."""
        _BATCHES.labels(kind).observe(size)
