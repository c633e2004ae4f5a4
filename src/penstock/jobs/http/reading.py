"""Read jobs and their statistics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from penstock.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
)
from penstock.jobs.counts import Stats
from penstock.jobs.fields import WaitSeconds
from penstock.jobs.filters import ListQuery
from penstock.jobs.http import examples
from penstock.jobs.http.allowed import queues_of, reads, visible
from penstock.jobs.http.base import JOB_ID, ExplainTo, JobRoutes, KnownTo
from penstock.jobs.http.filters import FILTER_PARAMETERS, FILTERS, filter_of, values_of
from penstock.jobs.job import Job, JobPage
from penstock.jobs.service import JobService
from penstock.jobs.why import Reason, Why
from penstock.tenants import scopes
from penstock.tenants.principal import Principal
from penstock.web.reading import convert
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

ObstaclesTo = Callable[[Job, Principal], Awaitable[Sequence[Reason]]]


class ReadRoutes(JobRoutes):
    """Returns jobs, pages of jobs, and counters.

    ``obstacles`` returns what a pending job waits for that other rooms know, as far as the sender may see it.
    """

    def __init__(self, service: JobService, *, known: KnownTo, explain: ExplainTo, obstacles: ObstaclesTo) -> None:
        super().__init__(service, known=known, explain=explain)
        self._obstacles = obstacles

    @route(
        "GET",
        "/api/v1/jobs/{id}",
        name="getJob",
        tag="Jobs",
        scope=scopes.JOBS_READ,
        summary="Read a job: its state, result and failed attempts",
        path_parameters=(JOB_ID,),
        parameters=(
            Parameter(
                name="wait",
                type=WaitSeconds,
                description="respond when the job has finished, or after that many seconds",
            ),
        ),
        responses={200: ResponseSpec(description="The job", type=Job, example=examples.DONE)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        job_id = request.path_id()
        query = request.query({"wait": False})
        if "wait" not in query:
            job = await self.jobs(request).get(job_id)
        else:
            job = await self.wait(request, job_id, _number(query["wait"][0], "wait", WaitSeconds))
        if not reads(request.principal, job):
            raise NotFound(f"there is no job {job_id}")
        return json_response(await self.warned(request, job))

    @route(
        "GET",
        "/api/v1/jobs/{id}/why",
        name="whyJob",
        tag="Jobs",
        scope=scopes.JOBS_READ,
        summary="Find out why a job does not run: its position, an estimate, and what it waits for",
        path_parameters=(JOB_ID,),
        responses={200: ResponseSpec(description="What it waits for", type=Why, example=examples.WHY)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def why(self, request: Request) -> Response:
        job_id = request.path_id()
        request.query({})
        jobs, sender = self.jobs(request), request.principal
        if sender.usable_queues is not None and not reads(sender, await jobs.get(job_id)):
            raise NotFound(f"there is no job {job_id}")
        why = await jobs.explainer.why(
            job_id, self.known_to(sender), self.explain_to(sender), lambda job: self._obstacles(job, sender)
        )
        return json_response(why)

    @route(
        "GET",
        "/api/v1/jobs",
        name="listJobs",
        tag="Jobs",
        scope=scopes.JOBS_READ,
        summary="List jobs, newest first",
        description="Every given filter must match. A page may hold fewer jobs than `limit`, even none: only a null "
        "`next_cursor` marks the end. Payloads are left out.",
        parameters=FILTER_PARAMETERS,
        responses={200: ResponseSpec(description="A page", type=JobPage, example=examples.PAGE)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_jobs(self, request: Request) -> Response:
        query = request.query({**FILTERS, "limit": False, "cursor": False})
        wanted = convert(values_of(query), ListQuery)
        where = filter_of(query)
        page = await self.jobs(request).list(where, limit=wanted.limit, cursor=wanted.cursor)
        return json_response(visible(request.principal, page))

    @route(
        "GET",
        "/api/v1/stats",
        name="getStats",
        tag="Statistics",
        scope=scopes.JOBS_READ,
        summary="Get the counters of each queue and owner",
        description="`pending` and `running` are current values; all others count from the beginning.",
        responses={200: ResponseSpec(description="The counters", type=Stats, example=examples.STATS)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def stats(self, request: Request) -> Response:
        request.query({})
        return json_response(await self.jobs(request).stats(queues_of(request.principal)))


def _number(text: str, name: str, kind: Any) -> float:
    try:
        return float(msgspec.convert(text, kind, strict=False))
    except (msgspec.ValidationError, ValueError):
        raise InvalidInput.of(name, "must be a number of seconds from 0 to 60") from None
