"""Penstock: durable jobs for AI models. The public names are here; each is loaded when it is first used.

Models import this package too, in their own interpreters, where only msgspec and pydantic are installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.blobs.blob import Blob
    from penstock.client import (
        BlockingClient,
        Client,
        Event,
        EventsLost,
        Job,
        JobFilters,
        JobOptions,
        JobPage,
        MediaFile,
        ModelEvent,
        Unreachable,
    )
    from penstock.errors import (
        AlreadyExists,
        CallerError,
        IdempotencyConflict,
        InvalidInput,
        ModelBroken,
        ModelCrashed,
        ModelFailed,
        ModelTimeout,
        ModelUnavailable,
        NotFound,
        Overloaded,
        PenstockError,
        PoisonInput,
        ProviderFailed,
        ServiceError,
        StaleEpoch,
        Unauthorized,
        WrongState,
    )
    from penstock.failures import Category
    from penstock.jobs.counts import Stats
    from penstock.jobs.filters import JobFilter
    from penstock.jobs.job import Created
    from penstock.jobs.states import Status
    from penstock.jobs.work import ClaimedJob, HeartbeatResult, JobState
    from penstock.models.replica.contract.arrays import Array
    from penstock.models.replica.contract.context import BadInput, Context, context
    from penstock.models.replica.contract.media import Audio, File, Image
    from penstock.work.batched import Batched
    from penstock.work.context import JobContext
    from penstock.work.executor import ExecutionError

__all__ = [
    "AlreadyExists",
    "Array",
    "Audio",
    "BadInput",
    "Batched",
    "Blob",
    "BlockingClient",
    "CallerError",
    "Category",
    "ClaimedJob",
    "Client",
    "Context",
    "Created",
    "Event",
    "EventsLost",
    "ExecutionError",
    "File",
    "HeartbeatResult",
    "IdempotencyConflict",
    "Image",
    "InvalidInput",
    "Job",
    "JobContext",
    "JobFilter",
    "JobFilters",
    "JobOptions",
    "JobPage",
    "JobState",
    "MediaFile",
    "ModelBroken",
    "ModelCrashed",
    "ModelEvent",
    "ModelFailed",
    "ModelTimeout",
    "ModelUnavailable",
    "NotFound",
    "Overloaded",
    "PenstockError",
    "PoisonInput",
    "ProviderFailed",
    "ServiceError",
    "StaleEpoch",
    "Stats",
    "Status",
    "Unauthorized",
    "Unreachable",
    "WrongState",
    "context",
]

_HOMES = {
    "penstock.client": (
        "BlockingClient",
        "Client",
        "Event",
        "EventsLost",
        "Job",
        "JobFilters",
        "JobOptions",
        "JobPage",
        "MediaFile",
        "ModelEvent",
        "Unreachable",
    ),
    "penstock.blobs.blob": ("Blob",),
    "penstock.jobs.job": ("Created",),
    "penstock.jobs.work": ("ClaimedJob", "HeartbeatResult", "JobState"),
    "penstock.jobs.filters": ("JobFilter",),
    "penstock.jobs.counts": ("Stats",),
    "penstock.failures": ("Category",),
    "penstock.jobs.states": ("Status",),
    "penstock.models.replica.contract.context": ("BadInput", "Context", "context"),
    "penstock.models.replica.contract.arrays": ("Array",),
    "penstock.models.replica.contract.media": ("Audio", "File", "Image"),
    "penstock.work.batched": ("Batched",),
    "penstock.work.context": ("JobContext",),
    "penstock.work.executor": ("ExecutionError",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME.get(name, "penstock.errors")), name)
    globals()[name] = value
    return value
