"""The assembly of a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from penstock.access.part import AccessParts
from penstock.apps import gateway_part as apps
from penstock.apps.service import AppService
from penstock.apps.statistics import Statistics
from penstock.assembly.shared import Shared
from penstock.athena.part import AthenaParts
from penstock.blobs import part as blobs
from penstock.blobs.parted import PartedUploads
from penstock.callbacks import part as callbacks
from penstock.callbacks.service import CallbackService
from penstock.collections import part as collections
from penstock.flows import gateway_part as flows
from penstock.flows.service import FlowService
from penstock.gateway import part as system
from penstock.gateway import server
from penstock.gateway.app import Gateway
from penstock.gateway.inputs import InputCheck
from penstock.gateway.job_metrics import observe_batch
from penstock.gateway.obstacles import Obstacles
from penstock.jobs import part as jobs
from penstock.jobs.http.submitting import SubmitRoutes
from penstock.models import part as models
from penstock.models.http.metering import Metering
from penstock.models.result_files import ResultFiles
from penstock.part import Part
from penstock.providers import part as providers
from penstock.providers.status import ProvidersWatch
from penstock.quotas.part import QuotaParts
from penstock.settings import Settings
from penstock.sidecar import part as sidecar
from penstock.sidecar.infra import Infra
from penstock.usage import part as usage


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
    def access(self) -> AccessParts:
        return AccessParts(self.settings, self.database, self.jobs.wakeups, self.instance)

    @cached_property
    def athena(self) -> AthenaParts:
        return AthenaParts(
            self.settings,
            self.database,
            self.access,
            self.models,
            quotas=self.quotas.quotas,
            metering=Metering(self.usage),
            files=ResultFiles(blobs=self.blobs),
            jobs=self.jobs,
            submitting=self.submit,
        )

    @cached_property
    def callbacks(self) -> CallbackService:
        return CallbackService(
            self.database, self.jobs.wakeups, sealing=self.callback_sealing, policy=self.callback_policy
        )

    @cached_property
    def quotas(self) -> QuotaParts:
        quotas = QuotaParts(self.database, self.jobs.wakeups)
        self.access.watch.on_change.append(quotas.watch.wake)
        return quotas

    @cached_property
    def flows(self) -> FlowService:
        return FlowService(self.database, self.jobs)

    @cached_property
    def apps(self) -> AppService:
        return AppService(self.database, self.flows)

    @cached_property
    def inputs(self) -> InputCheck:
        return InputCheck(self.models, self.catalogue, prices=self.prices, today=self.usage.day)

    @cached_property
    def submit(self) -> SubmitRoutes:
        """The routes that submit jobs, which other rooms use for jobs of theirs."""
        inputs = self.inputs
        return jobs.submitting(
            self.jobs,
            self.settings,
            check=inputs,
            require_price=inputs.require_price,
            require_no_tokens=inputs.require_no_tokens,
            known=inputs.names,
            explain=inputs.problem,
            quotas=self.quotas.quotas,
        )

    @cached_property
    def usage_part(self) -> Part:
        return usage.part(self.usage, self.database)

    @cached_property
    def blobs_part(self) -> Part:
        return blobs.part(
            self.blobs,
            PartedUploads(self.database, self.blobs),
            quotas=self.quotas.quotas,
            instance=self.instance,
            links=self.blob_links,
        )

    @cached_property
    def system_part(self) -> Part:
        return system.part(self.database, self.jobs, self.flows, brokers=self.brokers.all, stores=self.blobs.stores)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """All parts, in the order in which they start; they stop in reverse."""
        return [
            self.usage_part,
            self.quotas.part,
            models.part(
                self.models,
                max_call_bytes=self.settings.penstock_max_call_bytes,
                uploads=self.uploads,
                usage=self.usage,
                quotas=self.quotas.quotas,
            ),
            jobs.part(
                self.jobs,
                self.submit,
                known=self.inputs.names,
                explain=self.inputs.problem,
                obstacles=Obstacles(self.models, self.catalogue, self.providers, self.quotas.service),
            ),
            flows.part(self.flows, self.submit),
            apps.part(self.apps, self.submit, self.blob_links, Statistics(self.database)),
            providers.part(self.providers, self.jobs),
            self.blobs_part,
            self.system_part,
            callbacks.part(self.callbacks),
            self.athena.part,
            collections.part(self.collections),
            self.access.part,
            sidecar.part(self.infra),
            *self.brokers.parts(self.jobs.wakeups),
            self.athena.grpc_part,  # the last: its calls need all others
        ]

    @cached_property
    def gateway(self) -> Gateway:
        return Gateway(self.settings, self.access.access, self.parts)


async def run(parts: GatewayAssembly) -> None:
    """Run the process ``penstock gateway``."""
    try:
        await server.run(parts.gateway, parts.settings)
    finally:
        await parts.close()
