"""Executes runs of every tenant with the flows of one process."""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.flows.process.flow_process import FlowProcess
from penstock.flows.runner.children import MAP
from penstock.flows.runner.executor import CheckResult, RunExecution, RunLimits, Tools
from penstock.flows.runner.mailboxes import Mailboxes
from penstock.flows.runner.maps import MapExecution
from penstock.flows.runner.publishing import Publishing
from penstock.flows.runner.reading import RunReader
from penstock.flows.runner.writing import RunWriter
from penstock.jobs.announcements import FLOW, MAIL
from penstock.jobs.names import Names
from penstock.jobs.service import JobService
from penstock.jobs.slots import Slots
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId
from penstock.work.context import JobContext
from penstock.work.executors import Executors, Offer
from penstock.work.settled import Settled

log = logs.get(__name__)

_CROWDED: Final = 0.75  # share of ``max_resident`` above which waiting runs are parked at once


class FlowRunner:
    """Claims the runs of the flows that its process has, and executes them.

    At most ``max_resident`` runs are in memory at a time. They take none of the worker's slots: most of them wait.
    """

    def __init__(
        self,
        database: Database,
        jobs: JobService,
        process: FlowProcess,
        *,
        limits: RunLimits,
        max_resident: int,
        check_result: CheckResult | None = None,
    ) -> None:
        self.process = process
        self._database = database
        self._jobs = jobs
        self._limits = limits
        self._check_result = check_result
        self._slots = Slots(max_resident)
        self._mailboxes = Mailboxes()
        self._tools: dict[TenantId, Tools] = {}
        self._changed = asyncio.Event()
        self._publishing = Publishing(database, jobs, process)
        jobs.wakeups.subscribe(MAIL, self._mailboxes.wake)
        process.on_change(self._changed.set)

    async def start(self) -> None:
        """Start the process of the flows."""
        await self.process.start()

    async def stop(self) -> None:
        """Stop the process of the flows."""
        await self.process.stop()

    async def follow(self, executors: Executors) -> None:
        """Offer the flows that the process has, and publish them, until cancelled."""
        publishing = asyncio.create_task(self._publishing.run())
        offered: Offer | None = None
        try:
            while True:
                self._changed.clear()
                queues = (MAP, *sorted(f"{name}@{version}" for name, version in self.process.flows))
                if offered is None or offered.model_profiles != queues:
                    if offered is not None:
                        executors.remove(offered)
                    offered = Offer(executor=self.execute, task_types=(FLOW,), model_profiles=queues, slots=self._slots)
                    executors.serve(offered)
                await self._changed.wait()
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])

    async def execute(self, job: ClaimedJob, context: JobContext) -> object:
        """Execute one run until it ends, is parked or is held."""
        tools = self._tools_of(context.tenant)
        if job.model_profile == MAP:
            mapping = MapExecution(job, tools, database=self._database, tenant=context.tenant, jobs=self._jobs)
            raise Settled(await mapping.execute())
        raise Settled(await RunExecution(job, tools).execute())

    def _tools_of(self, tenant: TenantId) -> Tools:
        tools = self._tools.get(tenant)
        if tools is None:
            tools = self._tools[tenant] = Tools(
                process=self.process,
                reader=RunReader(self._database, tenant),
                writer=RunWriter(self._database, tenant, self._jobs),
                names=Names(self._database, tenant),
                mailboxes=self._mailboxes,
                limits=self._limits,
                crowded=self._crowded,
                code=lambda: self._publishing.code,
                check_result=self._check_result,
            )
        return tools

    def _crowded(self) -> bool:
        return self._slots.taken > _CROWDED * self._slots.limit
