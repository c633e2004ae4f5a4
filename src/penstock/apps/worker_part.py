"""The part of apps in a worker: it publishes the apps whose flows and models it loads."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.apps.folder import AppsFolder
from penstock.apps.publishing import AppPublishing
from penstock.flows.process.flow_process import FlowProcess
from penstock.models.folder import ModelsFolder
from penstock.postgres.pool import Database
from penstock.workers.part import WorkerPart


def worker_part(
    folder: AppsFolder, *, database: Database, process: FlowProcess, models: ModelsFolder | None
) -> WorkerPart:
    """Publish the apps of a folder, with the problems that the loaders of flows and models have found."""

    def others() -> Mapping[str, str]:
        return {**process.problems, **({} if models is None else models.problems)}

    publishing = AppPublishing(database, folder, others)
    process.on_change(publishing.publish_soon)
    return WorkerPart(start=publishing.start, stop=publishing.stop)
