"""The part of flows in a worker."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.flows.runner.executor import RunLimits
from penstock.flows.runner.runner import FlowRunner
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.settings import Settings
from penstock.workers.part import WorkerPart


def worker_part(
    folders: FlowFolders, settings: Settings, *, database: Database, jobs: JobService, ours: Mapping[str, str]
) -> WorkerPart:
    """Run the flows of some folders. ``ours`` is the environment of this process."""
    runner = FlowRunner(
        database,
        jobs.wakeups,
        FlowProcess(folders, ours=ours, private=frozenset(Settings.descriptions()), watched=True),
        limits=RunLimits(
            linger=settings.penstock_flows_linger,
            max_attempts=settings.penstock_max_attempts,
            max_result_bytes=settings.penstock_max_result_bytes,
        ),
        max_resident=settings.penstock_flows_resident,
    )

    return WorkerPart(start=runner.start, stop=runner.stop, follow=runner.follow)
