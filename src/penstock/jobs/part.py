"""The part of jobs in a gateway."""

from __future__ import annotations

from penstock.jobs.http.base import ExplainTo, KnownTo, Sizes
from penstock.jobs.http.changing import ChangeRoutes
from penstock.jobs.http.controls import ControlRoutes
from penstock.jobs.http.events import EventRoutes
from penstock.jobs.http.reading import ObstaclesTo, ReadRoutes
from penstock.jobs.http.submitting import Check, SubmitRoutes
from penstock.jobs.http.working import WorkRoutes
from penstock.jobs.service import JobService
from penstock.part import Part
from penstock.quotas.admission import Quotas
from penstock.settings.jobs import JobSettings
from penstock.web.route import routes_of


def submitting(
    service: JobService,
    settings: JobSettings,
    *,
    check: Check,
    require_price: Check,
    require_no_tokens: Check,
    known: KnownTo,
    explain: ExplainTo,
    quotas: Quotas,
) -> SubmitRoutes:
    """Return the routes that submit jobs, which other rooms use for jobs of theirs. See SubmitRoutes and JobRoutes."""
    return SubmitRoutes(
        service,
        sizes=Sizes(
            input=settings.penstock_max_input_bytes,
            result=settings.penstock_max_result_bytes,
            batch=settings.penstock_max_batch_bytes,
        ),
        known=known,
        explain=explain,
        check=check,
        require_price=require_price,
        require_no_tokens=require_no_tokens,
        quotas=quotas,
        strict_queues=settings.penstock_strict_queues,
    )


def part(
    service: JobService, submit: SubmitRoutes, *, known: KnownTo, explain: ExplainTo, obstacles: ObstaclesTo
) -> Part:
    """Return the routes of jobs. For the functions see ReadRoutes and JobRoutes."""
    sizes = submit.sizes
    topics = (
        submit,
        ReadRoutes(service, known=known, explain=explain, obstacles=obstacles),
        ChangeRoutes(service),
        EventRoutes(service),
        WorkRoutes(service, sizes=sizes),
        ControlRoutes(service),
    )
    routes = [route for topic in topics for route in routes_of(topic)]
    return Part(routes=routes, start=service.start, stop=service.stop)
