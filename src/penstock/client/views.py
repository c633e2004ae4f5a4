"""Jobs as the client's users see them: the wire types, with their JSON parsed."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from penstock.jobs import job


class JobSummary(job.JobSummary, frozen=True, kw_only=True):
    """A job without its payloads, as lists show it."""

    progress: Any = None


class Job(job.Job, frozen=True, kw_only=True):
    """A job with everything that is known of it. ``input``, ``result`` and ``progress`` are Python values."""

    input: Any = None
    result: Any = None
    progress: Any = None


class JobPage(Struct, frozen=True, kw_only=True):
    """Jobs, newest first. A page may hold fewer than asked for; only a null cursor means the end."""

    jobs: list[JobSummary]
    next_cursor: str | None
