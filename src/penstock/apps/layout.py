"""The components of an app: the API of the app, and an API and a worker for each of its services.

RabbitMQ, Redis and PostgreSQL are three more, so an app with one service has 6 components, with two 8, with three 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.apps.manifest import AppManifest, BrokenApp
from penstock.errors import FieldProblem
from penstock.flows.program.folders import MODELS
from penstock.models import aiges_file
from penstock.models.folder import ManifestFiles, ModelsFolder
from penstock.models.manifest import FILE_NAME, Model

APP_PORT: Final = 8007
APP_PORT_VARIABLE: Final = "APP_API_PORT"
APP_API: Final = "app-api"
EVERY: Final = "all"
WORKER_PORT: Final = 8090  # of a worker's health, within its container
MODEL_FOLDER_VARIABLE: Final = "CACHE_MODEL_DIR"  # the folder of the host with weights; workers see it as /model_hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A model of an app with an API and a worker of its own."""

    name: str
    model: str
    port: int
    port_variable: str
    manifest: str = ""  # of the model, below the folder of apps; another app may have it
    environment: str = ""  # identifies the model's own packages; "": it needs none

    @property
    def app_folder(self) -> str:
        """The name of the folder of the app that has the model."""
        return self.manifest.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One container that runs the app's image."""

    name: str
    command: Sequence[str]
    meaning: str
    port: int  # of its API or, of a worker, its health
    port_variable: str | None  # None: a worker's, which is not published
    image_suffix: str = ""  # of the tag

    @property
    def is_worker(self) -> bool:
        return self.port_variable is None

    @property
    def is_app(self) -> bool:
        return self.name == APP_API

    @property
    def probe(self) -> str:
        """A line of Python that fails if the component is not healthy."""
        if self.port_variable is None:
            return f"import urllib.request as r; r.urlopen('http://127.0.0.1:{self.port}/healthz', timeout=4)"
        port = f"os.environ.get('{self.port_variable}') or '{self.port}'"
        return f"import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + ({port}) + '/healthz', timeout=4)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An app as it is deployed."""

    name: str
    version: str
    title: str
    services: Sequence[Service]
    variables: Mapping[str, str]  # of the app's flow and models, with their defaults

    @classmethod
    def of(cls, manifest: AppManifest, folder: Path) -> Layout:
        """Return the layout of an app in a folder.

        Its services name models of its own or of the apps beside it. Raises BrokenApp for other names.
        """
        models = {**_models_of(folder.parent, "*"), **_models_of(folder.parent, folder.name)}
        services: list[Service] = []
        problems: list[FieldProblem] = []
        for index, one in enumerate(manifest.services):
            if f"{one.name}-api" == APP_API:
                detail = f"must be another name: {APP_API} is the API of the app itself"
                problems.append(FieldProblem(field=f"services[{index}].name", detail=detail))
            if one.model not in models:
                detail = f"{one.model!r} must be a model of this app or of one beside it, with a valid manifest"
                problems.append(FieldProblem(field=f"services[{index}].model", detail=detail))
                continue
            path, model = models[one.model]
            services.append(
                Service(
                    name=one.name,
                    model=one.model,
                    port=one.port,
                    port_variable=one.variable,
                    manifest=path,
                    environment=",".join(one.key for one in model.environments),
                )
            )
        if problems:
            raise BrokenApp(problems)
        return cls(
            name=manifest.name,
            version=manifest.version,
            title=manifest.title or manifest.name,
            services=services,
            variables=manifest.defaults(),
        )

    @property
    def components(self) -> list[Component]:
        """The components that run the app's image, in the order of the document."""
        found = [
            Component(
                name=APP_API,
                command=self.command(APP_API),
                meaning="Required: the API of the app, its flow, and the housekeeping, which sends the results.",
                port=APP_PORT,
                port_variable=APP_PORT_VARIABLE,
            )
        ]
        for service in self.services:
            api, worker = f"{service.name}-api", f"{service.name}-worker"
            found.append(
                Component(
                    name=api,
                    command=self.command(api),
                    meaning=f"The API of the service {service.name}: its tasks, and nothing else.",
                    port=service.port,
                    port_variable=service.port_variable,
                )
            )
            found.append(
                Component(
                    name=worker,
                    command=self.command(worker),
                    meaning=f"The worker of the service {service.name}, which runs the model {service.model}.",
                    port=WORKER_PORT,
                    port_variable=None,
                    image_suffix=self.image_suffix(service),
                )
            )
        return found

    @property
    def tag(self) -> str:
        """The version as the tag of an image, which cannot have a plus sign."""
        return self.version.replace("+", "-")

    def image_suffix(self, service: Service) -> str:
        """Return what the tag of a worker's image ends with. Services with the same packages share an image."""
        if not service.environment:
            return ""
        return f"-{next(one.name for one in self.services if one.environment == service.environment)}"

    @property
    def default(self) -> Component:
        """The component that the image runs by default."""
        return self.components[0]

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.components if not one.is_worker]

    @property
    def model_folder(self) -> str | None:
        """The folder of the host that holds weights, if the app's models read one."""
        return self.variables.get(MODEL_FOLDER_VARIABLE)

    def command(self, component: str) -> list[str]:
        return ["penstock", "app", "serve", self.name, "--component", component]


def _models_of(apps: Path, folder: str) -> dict[str, tuple[str, Model]]:
    """Return the models in folders of apps, by name, each with the path of its manifest."""
    below = (FILE_NAME, aiges_file.FILE_NAME)
    patterns = (f"{folder}/{MODELS}/*.toml", *(f"{folder}/{MODELS}/*/{name}" for name in below))
    found = ModelsFolder(ManifestFiles(root=apps, patterns=patterns))
    found.scan()
    return {model.name: (found.files[key], model) for key, model in found.models.items()}
