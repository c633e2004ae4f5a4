"""The types that the client returns: jobs, like the wire types but with parsed JSON, and outputs that are media."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from penstock.jobs import job


class JobSummary(job.JobSummary, frozen=True, kw_only=True):
    """A job without its payloads, as lists show it."""

    progress: Any = None


class Job(job.Job, frozen=True, kw_only=True):
    """A job with all its fields. ``input``, ``result`` and ``progress`` are Python values."""

    input: Any = None
    result: Any = None
    progress: Any = None


class MediaFile(Struct, frozen=True, kw_only=True):
    """A file with its bytes: a blob, or a model's output that is one piece of media."""

    data: bytes
    media_type: str
    name: str | None = None


class JobPage(Struct, frozen=True, kw_only=True):
    """Jobs, newest first. A page may hold fewer than the limit; only a null cursor means the end."""

    jobs: list[JobSummary]
    next_cursor: str | None


def as_id(job_id: UUID | str) -> UUID:
    """Return a job's id, checked, because anything else must not become part of a URL."""
    return job_id if isinstance(job_id, UUID) else UUID(job_id)


def as_raw(value: object) -> Raw:
    """Return a value as JSON; ``Raw`` is JSON already."""
    return value if isinstance(value, Raw) else Raw(msgspec.json.encode(value))
