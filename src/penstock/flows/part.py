"""The part of flows in a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.program.folders import FlowFolders
from penstock.flows.runner.executor import CheckResult, RunLimits
from penstock.flows.runner.runner import FlowRunner
from penstock.jobs.service import JobService
from penstock.postgres.pool import Database
from penstock.settings import Settings
from penstock.workers.part import WorkerPart


def flow_process(
    folders: FlowFolders,
    *,
    ours: Mapping[str, str],
    defaults: Callable[[], Mapping[str, Mapping[str, str]]] | None = None,
) -> FlowProcess:
    """Return the process that runs the flows of some folders, which are watched.

    ``ours`` is the environment of this process, and ``defaults`` returns further variables for the code of each app.
    """
    private = frozenset(Settings.descriptions())
    return FlowProcess(folders, ours=ours, private=private, watched=True, defaults=defaults)


def worker_part(
    process: FlowProcess,
    settings: Settings,
    *,
    database: Database,
    jobs: JobService,
    check_result: CheckResult | None = None,
) -> WorkerPart:
    """Run the flows that a process has."""
    runner = FlowRunner(
        database,
        jobs,
        process,
        limits=RunLimits(
            linger=settings.penstock_flows_linger,
            max_attempts=settings.penstock_max_attempts,
            max_result_bytes=settings.penstock_max_result_bytes,
        ),
        max_resident=settings.penstock_flows_resident,
        check_result=check_result,
    )

    return WorkerPart(start=runner.start, stop=runner.stop, follow=runner.follow)
