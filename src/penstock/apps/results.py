"""Requests of apps as callers see them: made of the run, its steps, and the files in its result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.apps.service import AppService
from penstock.apps.statistics import Statistics, usage_of
from penstock.apps.views import CallReply, Media, RequestResult, Stage
from penstock.blobs.links import BlobLinks
from penstock.errors import NotFound
from penstock.flows.kernel.records import StepKind
from penstock.flows.views import StepView
from penstock.jobs.job import JobSummary
from penstock.models.uploads import SCHEME, upload_id
from penstock.tenants.principal import Principal, TenantId

LINKS_LAST: Final = timedelta(hours=1)
MAX_MEDIA: Final = 100  # files of a result that get URLs
_MAX_DEPTH: Final = 64  # levels of a result at which files are found
_STAGES: Final = frozenset({StepKind.CALL, StepKind.MAP, StepKind.TIMER, StepKind.SIGNAL, StepKind.EVENT})


def reply_of(job: JobSummary, app: str, warnings: list[str]) -> CallReply:
    """Return what the sender of an accepted request gets."""
    return CallReply(
        task_id=job.id,
        app=app,
        user_id=job.user_id,
        status=job.status,
        created_at=job.created_at,
        warnings=warnings,
    )


class Results:
    """The requests of apps, with what is recorded of them and with URLs of their files."""

    def __init__(self, service: AppService, statistics: Statistics, links: BlobLinks) -> None:
        self._service = service
        self._statistics = statistics
        self._links = links

    async def of(self, sender: Principal, app: str, task_id: UUID, *, from_no: int, limit: int) -> RequestResult:
        """Return a request with a page of its stages and its result, in which each file has a URL. Raises NotFound."""
        tree = await self._service.request(sender, app, task_id, from_no=from_no, limit=limit)
        run = tree.run
        result, media = await with_links(tree.result, self._links, sender.tenant)
        record = await self._statistics.record(sender.tenant, task_id)
        return RequestResult(
            task_id=run.id,
            app=app,
            user_id=run.user_id,
            status=run.status,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            progress=run.progress,
            stages=[_stage(step) for step in tree.steps if step.kind in _STAGES],
            next_stage=tree.next_step,
            result=result,
            media=media,
            error=run.error,
            units=None if record is None or record.finished_at is None else float(record.units),
            usage=None if record is None else usage_of(record.used),
        )


def _stage(step: StepView) -> Stage:
    return Stage(
        no=step.no,
        name=step.name,
        kind=step.kind,
        status=step.status,
        started_at=step.started_at or step.issued_at,
        finished_at=step.finished_at,
        progress=step.progress,
        items=step.items,
        error=step.error,
    )


async def with_links(
    result: Raw | None, links: BlobLinks, tenant: TenantId, *, base: str = ""
) -> tuple[Raw | None, list[Media]]:
    """Return a result with a URL in place of each ``blob:ID``, and the files. Files that are gone stay as they are.

    ``base`` is the address of a gateway, for callers that need whole URLs.
    """
    if result is None or SCHEME.encode() not in bytes(result):
        return result, []
    value = msgspec.json.decode(result)
    media: dict[str, Media] = {}
    for blob_id in dict.fromkeys(_blobs(value, 0)):
        if len(media) == MAX_MEDIA:
            break
        try:
            made = await links.make(tenant, blob_id, LINKS_LAST)
        except NotFound:
            continue
        url = f"{base}{made.url}" if made.url.startswith("/") else made.url
        media[f"{SCHEME}{blob_id}"] = Media(id=blob_id, url=url, expires_at=made.expires_at)
    return Raw(msgspec.json.encode(_replaced(value, media, 0))), list(media.values())


def _blobs(value: Any, depth: int) -> Iterator[UUID]:
    if isinstance(value, str):
        found = upload_id(value)
        if found is not None and value == f"{SCHEME}{found}":
            yield found
    elif isinstance(value, dict | list) and depth < _MAX_DEPTH:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _blobs(inner, depth + 1)


def _replaced(value: Any, media: dict[str, Media], depth: int) -> Any:
    if isinstance(value, str):
        return media[value].url if value in media else value
    if depth >= _MAX_DEPTH:
        return value
    if isinstance(value, dict):
        return {name: _replaced(inner, media, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, media, depth + 1) for inner in value]
    return value
