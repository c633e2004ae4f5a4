"""The assembly of a worker."""

from __future__ import annotations

import os
from functools import cached_property

from penstock.apps import worker_part as apps
from penstock.apps.result_check import ResultCheck
from penstock.assembly.shared import Shared
from penstock.client import Client
from penstock.flows import part as flows
from penstock.flows.program.folders import FlowFolders
from penstock.models.result_files import ResultMedia
from penstock.settings import Settings
from penstock.workers import collections, embeddings, models, process, profiles
from penstock.workers.models import WorkerModels
from penstock.workers.part import WorkerPart


class WorkerAssembly(Shared):
    """The parts of a worker."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, role="worker")

    @cached_property
    def worker_models(self) -> WorkerModels:
        """The models of the gateway that ``PENSTOCK_MODELS_URL`` names, else those in this worker's folders."""
        url = self.settings.penstock_models_url
        media = ResultMedia(blobs=self.blobs, larger_than=self.settings.penstock_result_media_bytes)
        token = self.settings.penstock_key or self.settings.ai_service_token
        if url is not None:
            return models.of_gateway(
                Client(url, token=token.reveal() if token is not None else None, headers={"Penstock-Usage": "job"}),
                media,
            )
        if self.model_folders:
            return models.of_this_process(self.models, self.uploads, media)
        return WorkerModels(part=WorkerPart())

    @property
    def flows(self) -> list[WorkerPart]:
        """The flows in ``PENSTOCK_FLOWS_DIR``, and those of the apps in ``PENSTOCK_APPS_DIR``."""
        apps_folder = self.apps_folder
        folders = FlowFolders(flows=self.settings.penstock_flows_dir, apps=self.settings.penstock_apps_dir)
        if not folders.roots:
            return []
        defaults = None if apps_folder is None else apps_folder.variables
        process = flows.flow_process(folders, ours=os.environ, defaults=defaults)
        check = None if apps_folder is None else ResultCheck(apps_folder)
        parts = [flows.worker_part(process, self.settings, database=self.database, jobs=self.jobs, check_result=check)]
        if apps_folder is not None:
            models = self.models.folder if self.settings.penstock_models_url is None else None
            parts.append(apps.worker_part(apps_folder, database=self.database, process=process, models=models))
        return parts

    @property
    def parts(self) -> list[WorkerPart]:
        """All parts, in the order in which they start; they stop in reverse. Raises SettingsError."""
        self.worker_models.require(self.catalogue)
        return [
            self.worker_models.part,
            profiles.part(
                self.catalogue,
                self.settings,
                database=self.database,
                blobs=self.blobs,
                models=self.worker_models.caller,
            ),
            collections.part(self.collections),
            self.embedding_part,
            *self.flows,
            *self.shared_parts,
        ]

    @property
    def embedding_part(self) -> WorkerPart:
        """Jobs on collections whose vectors a model of this worker computes."""
        return embeddings.part(self.collections, self.worker_models.models)

    @property
    def shared_parts(self) -> list[WorkerPart]:
        """The parts of every worker, whatever it runs."""
        return [
            WorkerPart(start=self.usage.start, stop=self.usage.stop),
            WorkerPart(start=self.jobs.start, stop=self.jobs.stop),
            *(
                WorkerPart(start=part.start, stop=part.stop)
                for part in self.brokers.parts(self.jobs.wakeups, self.jobs.claims)
            ),
        ]


async def run(assembly: WorkerAssembly) -> None:
    """Run the process ``penstock worker``."""
    try:
        await process.run(assembly.settings, assembly.jobs, assembly.parts)
    finally:
        await assembly.close()
