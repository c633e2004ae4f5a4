"""The assembly of the processes of ``penstock app serve``.

The component of the app's API has a gateway, a worker that runs the app's flow, and a housekeeper. An API of a service
is a gateway with the routes of its tasks only, and a worker of a service runs one model. None but the last loads
models, so that only their images need the models' packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from penstock.apps.serving.roots import at_root
from penstock.apps.serving.schemas import SchemaPublishing
from penstock.apps.serving.served import ServedApp
from penstock.apps.serving.tasks import TaskRoutes
from penstock.assembly.gateway import GatewayAssembly
from penstock.assembly.worker import WorkerAssembly
from penstock.models.folder import ManifestFiles
from penstock.part import Part
from penstock.settings import Settings
from penstock.web.route import routes_of
from penstock.workers.part import WorkerPart


class AppGatewayAssembly(GatewayAssembly):
    """A gateway with all routes, and those of one app at the root."""

    def __init__(self, settings: Settings, app: ServedApp, component: str) -> None:
        super().__init__(_listening(settings, app, component))
        self._app = app

    @property
    def model_folders(self) -> list[ManifestFiles]:
        return []

    @cached_property
    def parts(self) -> Sequence[Part]:
        routes = [route for part in super().parts for route in part.routes]
        return [*super().parts, Part(routes=at_root(routes, self._app.layout.name, self.apps.is_known))]


class FlowWorkerAssembly(WorkerAssembly):
    """A worker that runs flows and profiles, but no models."""

    @property
    def model_folders(self) -> list[ManifestFiles]:
        return []


class ServiceGatewayAssembly(GatewayAssembly):
    """A gateway with the routes of one service, and of files, which tasks may name."""

    def __init__(self, settings: Settings, app: ServedApp, component: str) -> None:
        super().__init__(_listening(settings, app, component))
        self._app = app
        self._service = app.service(component)

    @property
    def model_folders(self) -> list[ManifestFiles]:
        return []

    @cached_property
    def parts(self) -> Sequence[Part]:
        tasks = TaskRoutes(
            self._app.layout,
            self._service,
            submitting=self.submit,
            links=self.blob_links,
            database=self.database,
        )
        return [
            self.usage_part,
            self.quotas.part,
            Part(routes=routes_of(tasks), start=self.jobs.start, stop=self.jobs.stop),
            self.blobs_part,
            self.system_part,
            self.access.part,
            *self.brokers.parts(self.jobs.wakeups),
        ]


class ServiceWorkerAssembly(WorkerAssembly):
    """A worker that runs the model of one service."""

    def __init__(self, settings: Settings, app: ServedApp, component: str) -> None:
        super().__init__(settings.replace(penstock_models_url=None))
        self._app = app
        self._service = app.service(component)

    @cached_property
    def model_folders(self) -> list[ManifestFiles]:
        """The manifest of the service's model alone."""
        (of_apps,) = [one for one in super().model_folders if one.root == self._app.folder.parent]
        return [replace(of_apps, patterns=(self._service.manifest,))]

    @property
    def parts(self) -> list[WorkerPart]:
        schemas = SchemaPublishing(self.database, self.models.host)
        return [
            self.worker_models.part,
            WorkerPart(start=schemas.start, stop=schemas.stop),
            self.embedding_part,
            *self.shared_parts,
        ]


def _listening(settings: Settings, app: ServedApp, component: str) -> Settings:
    """Return the settings of a gateway that listens on the port of a component; a worker's port does not matter."""
    return settings.replace(http_port=app.ports[component], worker_http_port=0)
