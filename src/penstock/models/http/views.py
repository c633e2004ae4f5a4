"""Models as clients see them: the wire types of the model API."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from penstock.models.host.deployment import Deployment
from penstock.models.host.host import Entry
from penstock.models.host.logbook import LogEntry
from penstock.models.host.metrics import Counts
from penstock.models.reader import Reader
from penstock.models.replica.runtime import SessionSchema
from penstock.models.replica.secrets import masked


class ModelSummary(Struct, frozen=True, kw_only=True):
    """A model in a list."""

    name: str
    version: str  # the version for calls that name none
    versions: list[str]
    runtime: str
    description: str
    state: str  # "describing", "unloaded", "loading", "ready", "unavailable"
    streams: bool
    places: int  # calls that it can run at a time
    source: str  # "folder": the operator's; "api": registered over HTTP
    tenant: str | None = None  # its owner; null: the operator, who shares it
    tenants: list[str] | None = None  # for operators: the tenants that it is shared with; null: all
    problem: str | None = None


class ModelPage(Struct, frozen=True, kw_only=True):
    """All models, and the manifests that cannot be used."""

    models: list[ModelSummary]
    problems: dict[str, str]  # by file


class ReplicaView(Struct, frozen=True, kw_only=True):
    """One replica."""

    name: str
    pid: int | None
    state: str  # "starting", "ready", "stopping"
    in_flight: int
    answers: int
    uptime_seconds: float
    load_seconds: float | None


class VersionView(Struct, frozen=True, kw_only=True):
    """One version: its state, load and counters."""

    version: str
    state: str
    problem: str | None
    replicas: list[ReplicaView]
    waiting: int  # calls in the queue
    in_flight: int  # calls in replicas
    restarts: int
    counts: Counts


class ModelView(ModelSummary, frozen=True, kw_only=True):
    """All details of a model."""

    input_schema: dict[str, Any] | None  # null: not yet known
    output_schema: dict[str, Any] | None  # the schema of one chunk if the model streams
    session: SessionSchema | None  # what its sessions take and send; null: it takes none
    batches: bool
    examples: list[Any]
    options: dict[str, Any]  # secrets masked; like the details, shown to the owner only
    details: list[VersionView]


class LogPage(Struct, frozen=True, kw_only=True):
    """Lines of a model's log, oldest first."""

    lines: list[LogEntry]


class Cleared(Struct, frozen=True, kw_only=True):
    """The number of deleted lines."""

    cleared: int


def state_of(deployment: Deployment) -> str:
    """Return the state of a version, in one word."""
    if deployment.ready:
        return "ready"
    if deployment.problem is not None:
        return "unavailable"
    if not deployment.settled:
        return "loading"
    return "describing" if deployment.schema is None else "unloaded"


def summary(entry: Entry, reader: Reader) -> dict[str, Any]:
    """Return the fields of ``ModelSummary``. A tenant does not see why a shared model cannot be used: errors may name
    the operator's servers."""
    deployment = entry.versions[entry.default]
    schema = deployment.schema or deployment.model.schema
    return {
        "name": entry.name,
        "version": entry.default,
        "versions": list(entry.versions),
        "runtime": deployment.model.manifest.runtime,
        "description": deployment.model.manifest.description or schema.description,
        "state": state_of(deployment),
        "streams": schema.streams,
        "places": deployment.places,
        "source": deployment.model.source,
        "tenant": entry.owner,
        "tenants": deployment.model.manifest.tenants if reader.tenant is None and entry.owner is None else None,
        "problem": (deployment.problem or deployment.newer_problem) if entry.owner == reader.tenant else None,
    }


def summarised(entry: Entry, reader: Reader) -> ModelSummary:
    """Return a model for a list."""
    return ModelSummary(**summary(entry, reader))


def whole(entry: Entry, reader: Reader) -> ModelView:
    """Return a model with all details. Tenants do not see the load of a shared model, because all of them
    contribute to it."""
    deployment = entry.versions[entry.default]
    schema = deployment.schema
    return ModelView(
        **summary(entry, reader),
        input_schema=None if schema is None else schema.input,
        output_schema=None if schema is None else schema.output,
        session=None if schema is None else schema.session,
        batches=schema is not None and schema.batches and deployment.model.manifest.batching is not None,
        examples=deployment.model.manifest.examples,
        options=masked(deployment.model.manifest.options) if entry.owner == reader.tenant else {},
        details=[_version(one) for one in entry.versions.values()] if entry.owner == reader.tenant else [],
    )


def _version(deployment: Deployment) -> VersionView:
    now = time.monotonic()
    return VersionView(
        version=deployment.model.version,
        state=state_of(deployment),
        problem=deployment.problem or deployment.newer_problem,
        replicas=[
            ReplicaView(
                name=replica.name,
                pid=replica.pid,
                state=replica.state,
                in_flight=replica.load,
                answers=replica.returned,
                uptime_seconds=round(now - replica.started_at, 3),
                load_seconds=None if replica.load_seconds is None else round(replica.load_seconds, 3),
            )
            for replica in deployment.replicas
        ],
        waiting=deployment.waiting,
        in_flight=deployment.in_flight,
        restarts=deployment.restarts,
        counts=deployment.metrics.counts(),
    )
