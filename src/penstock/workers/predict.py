"""Jobs that run on models: their ``task_type`` is "predict", their ``model_profile`` the model's name.

The models are those of this process or of a gateway, so that one machine loads a model only once. Their chunks,
progress and log lines become the job's events. The worker serves all models that there are, as they come and go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, Protocol

from msgspec import Raw

from penstock.errors import PenstockError
from penstock.failures import CallFailed, Category, failure_of
from penstock.jobs.work import ClaimedJob
from penstock.models.result_files import ForJob, ResultMedia
from penstock.telemetry import logs
from penstock.work.context import JobContext
from penstock.work.executor import Executor
from penstock.work.executors import Executors, Offer

log = logs.get(__name__)

TASK_TYPE: Final = "predict"
_RETRY_SECONDS: Final = 2.0  # after an unforeseen error
_SOON: Final = timedelta(seconds=1)  # delay before the retry of a job whose gateway or model was busy or away


@dataclass(frozen=True, slots=True)
class Served:
    """All models of one name: their places together, and the tenants that have one."""

    places: int = 0  # calls that its models can process at a time
    tenants: frozenset[str] | None = frozenset()  # those that have a model of this name; None: all

    def with_model(self, places: int, tenants: Collection[str] | None) -> Served:
        """Return this with one more model of the name, which these tenants have; None: all."""
        joined = None if self.tenants is None or tenants is None else self.tenants | frozenset(tenants)
        return Served(self.places + places, joined)


class Models(Protocol):
    """Models that jobs can run on."""

    async def names(self) -> AsyncIterator[Mapping[str, Served]]:
        """Yield the names of the models: now, and again after every change."""
        ...
        yield {}

    async def predict(self, name: str, job: ClaimedJob, context: JobContext) -> bytes:
        """Return one job's result. Raises CallFailed."""
        ...


async def offer(models: Models, media: ResultMedia, executors: Executors) -> None:
    """Keep the executors in step with the available models, for ever; ``media`` keeps the media of results."""
    await follow(models, partial(_executor, models, media), executors, task_types=[TASK_TYPE])


async def follow(
    models: Models, make: Callable[[str], Executor], executors: Executors, *, task_types: Collection[str]
) -> None:
    """Serve these task types for every available model, with the executor that ``make`` returns for its name, for
    ever."""
    offers: dict[str, tuple[Served, Offer]] = {}
    while True:
        try:
            async for found in models.names():
                _update(found, make, executors, offers, task_types)
        except Exception:  # the loop survives any error: without it the worker would seem healthy but serve no models
            log.exception("models_not_offered")
        await asyncio.sleep(_RETRY_SECONDS)


def _update(
    found: Mapping[str, Served],
    make: Callable[[str], Executor],
    executors: Executors,
    offers: dict[str, tuple[Served, Offer]],
    task_types: Collection[str],
) -> None:
    served = {name: one for name, one in found.items() if one.tenants is None or one.tenants}
    for name in list(offers):
        if offers[name][0] != served.get(name):
            executors.remove(offers.pop(name)[1])
    for name in served.keys() - offers.keys():
        # Twice as many as the model processes at a time: the next jobs wait at the model, not in the database.
        made = executors.add(
            make(name),
            task_types=task_types,
            model_profiles=[name],
            tenants=sorted(served[name].tenants or ()),  # jobs of others wait until they have such a model
            limit=2 * served[name].places,
        )
        offers[name] = (served[name], made)


def _executor(models: Models, media: ResultMedia, name: str) -> Executor:
    async def run(job: ClaimedJob, context: JobContext, /) -> object:
        result = await models.predict(name, job, context)
        try:
            return Raw(await media.kept(result, context.tenant, ForJob(job=str(job.id), epoch=job.epoch)))
        except PenstockError as error:
            raise failure_of(error) from error

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
