"""Jobs that run on models: their ``task_type`` is "predict", their ``model_profile`` the model's name.

The models are those of this process or of a gateway, so that one machine loads a model only once. Their chunks,
progress and log lines become the job's events. The worker serves all models that there are, as they come and go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

from msgspec import Raw

from penstock.errors import PenstockError
from penstock.failures import CallFailed, Category, failure_of
from penstock.jobs.work import ClaimedJob
from penstock.telemetry import logs
from penstock.work.context import JobContext
from penstock.work.executors import Executors, Offer
from penstock.workers.result_media import ResultMedia

log = logs.get(__name__)

TASK_TYPE: Final = "predict"
_RETRY_SECONDS: Final = 2.0  # after an unforeseen error
_SOON: Final = timedelta(seconds=1)  # delay before the retry of a job whose gateway or model was busy or away


class Models(Protocol):
    """Models that jobs can run on."""

    async def names(self) -> AsyncIterator[Mapping[str, int]]:
        """Yield how many calls each model can process at a time, by name: now, and again after every change."""
        ...
        yield {}

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        """Return one job's result. Raises CallFailed."""
        ...


async def offer(models: Models, media: ResultMedia, executors: Executors) -> None:
    """Keep the executors in step with the available models, for ever; ``media`` keeps the media of results."""
    offers: dict[str, tuple[int, Offer]] = {}
    while True:
        try:
            await _follow(models, media, executors, offers)
        except Exception:  # the loop survives any error: without it the worker would seem healthy but serve no models
            log.exception("models_not_offered")
        await asyncio.sleep(_RETRY_SECONDS)


async def _follow(
    models: Models, media: ResultMedia, executors: Executors, offers: dict[str, tuple[int, Offer]]
) -> None:
    async for concurrency in models.names():
        for name in list(offers):
            if offers[name][0] != concurrency.get(name):
                executors.remove(offers.pop(name)[1])
        for name in concurrency.keys() - offers.keys():
            # Twice as many as the model processes at a time: the next jobs wait at the model, not in the database.
            made = executors.add(
                _executor(models, media, name),
                task_types=[TASK_TYPE],
                model_profiles=[name],
                limit=2 * concurrency[name],
            )
            offers[name] = (concurrency[name], made)


def _executor(models: Models, media: ResultMedia, name: str) -> Any:
    async def run(job: ClaimedJob, context: JobContext, /) -> object:
        return Raw(await media.keep(await models.predict(name, job, context), job, context))

    return run


def request_id(job: ClaimedJob) -> str:
    """Return the id under which a job's attempt calls its model."""
    return f"{job.id}-{job.epoch}"


def failure_of_job(error: PenstockError) -> CallFailed:
    """Convert the model's error to the job's failure. A job is retried soon if its model was busy or away."""
    failure = failure_of(error)
    if failure.category is Category.RATE_LIMITED and failure.retry_after is None:
        failure.retry_after = _SOON
    return failure
