"""The base of the classes of job routes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from penstock.jobs.job import Job
from penstock.jobs.queues import Explain, Known
from penstock.jobs.service import JobService
from penstock.jobs.sql.rows import Queue
from penstock.jobs.states import Status
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.tenants.principal import Principal
from penstock.web.request import Request
from penstock.web.route import PathParameter

JOB_ID: Final = PathParameter(name="id", type=UUID, description="the job's id", subject="job")


KnownTo = Callable[[str, Principal], Collection[str]]
ExplainTo = Callable[[Queue, Principal], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The largest sizes that are accepted in requests, in bytes."""

    input: int = 2**20
    result: int = 16 * 2**20
    batch: int = 64 * 2**20
    one_heartbeat: int = 8 * 2**20  # larger than a valid one, so that the error for one too large names the field

    @property
    def one_job(self) -> int:
        """Return the largest body of a submission: its input, with room for the other fields."""
        return self.input + 64 * 1024

    @property
    def one_result(self) -> int:
        return self.result + 64 * 1024


class JobRoutes:
    """Handlers that use one job service. ``known`` returns the model profiles that this process knows for a task type
    and a sender, ``explain`` why this process does not serve a queue, if it knows."""

    def __init__(
        self,
        service: JobService,
        *,
        sizes: Sizes | None = None,
        known: KnownTo = lambda _, __: (),
        explain: ExplainTo = lambda _, __: None,
    ) -> None:
        self.sizes = sizes or Sizes()
        self._known = known
        self._explain = explain
        self._service = service

    def jobs(self, request: Request) -> TenantJobs:
        """Return the jobs of the tenant that sends the request."""
        return self._service.of(request.principal.tenant)

    async def warned(self, request: Request, job: Job) -> Job:
        """Return the job with warnings, if it waits for a worker that may not exist."""
        if not waits(job):
            return job
        warnings = await self.warnings(request, [queue_of(job)])
        return msgspec.structs.replace(job, warnings=warnings) if warnings else job

    async def warnings(self, request: Request, queues: Sequence[Queue]) -> list[str]:
        """Return a sentence about each of these queues that no worker serves."""
        sender = request.principal
        return await self.jobs(request).queues.warnings(queues, self.known_to(sender), self.explain_to(sender))

    def known_to(self, sender: Principal) -> Known:
        return lambda task_type: self._known(task_type, sender)

    def explain_to(self, sender: Principal) -> Explain:
        return lambda queue: self._explain(queue, sender)

    async def wait(self, request: Request, job_id: UUID, seconds: float) -> Job:
        """Return the job once it has finished, or its state after ``seconds`` or when the process begins to stop."""
        waited = await request.unless_left(self.jobs(request).wait(job_id, timedelta(seconds=seconds)))
        return waited or await self.jobs(request).get(job_id)


def queue_of(job: Job) -> Queue:
    return (job.task_type, job.model_profile)


def waits(job: Job) -> bool:
    """Return whether no worker has taken the job yet."""
    return job.status is Status.PENDING and job.attempt == 0
