"""What jobs offer to a gateway."""

from __future__ import annotations

from penstock.jobs.handlers import Check, JobHandlers, Sizes
from penstock.jobs.queues import Known
from penstock.jobs.routes import routes
from penstock.jobs.service import JobService
from penstock.part import Part
from penstock.settings.jobs import JobSettings


def part(service: JobService, settings: JobSettings, *, check: Check, known: Known) -> Part:
    """The routes of jobs; ``check`` refuses inputs that their executors would refuse, ``known`` names what can run."""
    sizes = Sizes(
        input=settings.penstock_max_input_bytes,
        result=settings.penstock_max_result_bytes,
        batch=settings.penstock_max_batch_bytes,
    )
    handlers = JobHandlers(service, sizes, check=check, known=known, strict_queues=settings.penstock_strict_queues)
    return Part(routes=routes(handlers), start=service.start, stop=service.stop)
