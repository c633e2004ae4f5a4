"""The requests that the job commands send to the gateway; jobs are returned as plain JSON objects."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
import typer

from penstock.cli.job_views import Bars, Job
from penstock.client import Client
from penstock.errors import InvalidInput
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import JobSubmission
from penstock.web.reading import decode

T = TypeVar("T")
Verb = Literal["retry", "cancel"]

_PAGE = 100
_WAITS_LONG_SECONDS = 10.0  # the wait before a hint that perhaps no worker takes the job
_POLL_INTERVAL = timedelta(milliseconds=500)  # between polls for progress; the end of a job is noticed at once


async def submit(client: Client, fields: Mapping[str, Any]) -> Job:
    """Create a job from its fields."""
    submission = _typed({name: value for name, value in fields.items() if value is not None}, JobSubmission)
    options = {name: getattr(submission, name) for name in JobSubmission.__struct_fields__}
    return _plain(await client.submit(**options))


async def with_uploads(client: Client, task_type: str, job_input: Any, files: Mapping[str, Path]) -> dict[str, Any]:
    """Upload files and return a job's input with their ids, in the form that jobs of that type use."""
    if not isinstance(job_input, dict):
        raise InvalidInput.of("input", "must be an object: it names the uploaded files")
    scheme = "blob:" if task_type == "predict" else ""  # models take media in other forms too
    ids = {field: f"{scheme}{(await client.upload(path)).id}" for field, path in files.items()}
    return job_input | ids


async def get(client: Client, job_id: UUID) -> Job:
    """Return one whole job."""
    return _plain(await client.get(job_id))


async def find(client: Client, where: Mapping[str, Any], limit: int) -> list[Job]:
    """Return the newest ``limit`` jobs that match, reading as many pages as necessary."""
    jobs: list[Job] = []
    cursor: str | None = None
    while len(jobs) < limit:
        page = await client.list(_typed(where, JobFilter), limit=min(_PAGE, limit - len(jobs)), cursor=cursor)
        jobs += [_plain(job) for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    return jobs


async def watch(client: Client, job_ids: Sequence[UUID], *, show: bool) -> list[Job]:
    """Return the jobs once all have finished; with ``show``, display a bar for each meanwhile."""
    bars = Bars(show=show)
    try:
        return list(await asyncio.gather(*(_watch_one(client, job_id, bars) for job_id in job_ids)))
    finally:
        bars.close()


async def change(client: Client, verb: Verb, job_ids: Sequence[UUID]) -> list[Job]:
    """Retry or cancel these jobs one after the other; stop at the first that is refused."""
    call = client.retry if verb == "retry" else client.cancel
    return [_plain(await call(job_id)) for job_id in job_ids]


async def change_where(client: Client, verb: Verb, where: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Retry or cancel the jobs that match; return how many. With ``dry_run``, only count them."""
    call = client.retry_where if verb == "retry" else client.cancel_where
    return {"count": await call(_typed(where, JobFilter), dry_run=dry_run), "dry_run": dry_run}


async def stats(client: Client) -> dict[str, Any]:
    """Return all counters."""
    return _plain(await client.stats())


async def _watch_one(client: Client, job_id: UUID, bars: Bars) -> Job:
    bars.update(job := _plain(await client.get(job_id)))
    hint_at = time.monotonic() + _WAITS_LONG_SECONDS
    while not job["finished_at"]:
        try:
            job = _plain(await client.wait(job_id, timeout=_POLL_INTERVAL))
        except TimeoutError:
            job = _plain(await client.get(job_id))
        bars.update(job)
        if not job["attempt"] and not job["run_at"] and time.monotonic() > hint_at:
            hint_at = math.inf
            queue = f"{job['task_type']} jobs for {job['model_profile']}"
            typer.echo(f"penstock: job {job_id} still waits. Is there a worker that takes {queue}?", err=True)
    return job


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def _typed(fields: Mapping[str, Any], kind: type[T]) -> T:
    """Return ``fields`` as one of the API's types; a mistake is reported before anything is sent."""
    return decode(msgspec.json.encode(fields), msgspec.json.Decoder(kind))
