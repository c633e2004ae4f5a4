"""The models that a worker can call, for predict jobs and for providers, through a gateway or in this process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from penstock.blobs.uploads import Uploads
from penstock.client import Client
from penstock.errors import FieldProblem, SettingsError
from penstock.models.result_files import ResultMedia
from penstock.models.service import ModelService
from penstock.providers.kinds.model import ModelCaller
from penstock.providers.profile import Catalogue
from penstock.workers import predict
from penstock.workers.gateway_models import GatewayModels
from penstock.workers.hosted_models import HostedModels
from penstock.workers.model_calls import GatewayCaller, HostedCaller
from penstock.workers.part import WorkerPart
from penstock.workers.predict import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerModels:
    """The models of a worker: ``part`` runs predict jobs on them, and providers call them through ``caller``."""

    part: WorkerPart
    caller: ModelCaller | None = None  # None: this worker cannot call models
    models: Models | None = None  # the same models, for jobs that call them for their tenant

    def require(self, catalogue: Catalogue) -> None:
        """Raise SettingsError for providers that are registered models if this worker cannot call models."""
        registered = [spec for spec in catalogue.providers.values() if spec.kind.registered]
        if self.caller is None and registered:
            detail = "is a registered model, and neither PENSTOCK_MODELS_URL nor PENSTOCK_MODELS_DIR is set"
            raise SettingsError([FieldProblem(field=f"providers.{spec.name}", detail=detail) for spec in registered])


def of_gateway(client: Client, media: ResultMedia) -> WorkerModels:
    """Return the models of a gateway; the part closes the client. ``media`` keeps the media of results."""
    models = GatewayModels(client)
    return WorkerModels(
        part=WorkerPart(stop=client.close, follow=partial(predict.offer, models, media)),
        caller=GatewayCaller(client),
        models=models,
    )


def of_this_process(service: ModelService, uploads: Uploads, media: ResultMedia) -> WorkerModels:
    """Return the models of a service; the part starts and stops it. ``media`` keeps the media of results."""
    models = HostedModels(service, uploads)
    return WorkerModels(
        part=WorkerPart(start=service.start, stop=service.stop, follow=partial(predict.offer, models, media)),
        caller=HostedCaller(service),
        models=models,
    )
