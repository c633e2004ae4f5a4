"""``GET /api/v1/comparisons``: compare providers over many jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.jobs.filters import JobFilter
from penstock.jobs.http.filters import FILTER_MEANINGS, FILTERS, filter_of
from penstock.jobs.service import JobService
from penstock.jobs.sql.reading import UsedByJob
from penstock.jobs.states import Status
from penstock.jobs.tenant_jobs import TenantJobs
from penstock.providers.agreement import Agreement
from penstock.providers.comparing import Compared, Comparison, compare
from penstock.tenants import scopes
from penstock.web.reading import convert
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_PAGE: Final = 500
_RESULTS: Final = 50  # jobs whose results, which may be large, one statement reads
_MAX_PAGES: Final = 20  # pages that are searched, if a filter matches rarely
Limit = Annotated[int, Meta(ge=1, le=5000)]

_EXAMPLE: dict[str, Any] = {
    "jobs": 120,
    "providers": [
        {
            "provider": "whisperx",
            "models": ["large-v3"],
            "calls": 121,
            "completed": 120,
            "failed": 1,
            "cancelled": 0,
            "skipped": 0,
            "failure_rate": 0.0083,
            "latency_ms": {"p50": 2100, "p95": 6300, "longest": 9800},
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "audio_seconds": 5400.0,
            "realtime_factor": 0.05,
            "errors": {"the provider failed (500)": 1},
        }
    ],
    "agreement": [
        {
            "reference": "whisperx",
            "hypothesis": "voxtral-small",
            "jobs": 119,
            "wer": 0.081,
            "wer_median": 0.067,
            "wer_worst": 0.5,
        }
    ],
}


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    limit: Limit = 500


class ComparisonRoutes:
    """The endpoint that compares providers, on the job service."""

    def __init__(self, service: JobService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/comparisons",
        name="compareProviders",
        tag="Providers",
        scope=scopes.JOBS_READ,
        summary="Compare providers over many jobs: agreement, failures, latency",
        description=(
            "Covers the newest finished jobs that match every stated filter, or the jobs named by `id`. "
            "Word error rates come from jobs whose mode was `all`."
        ),
        parameters=(
            Parameter(name="id", type=UUID, description="these jobs; cannot be combined with filters", repeated=True),
            Parameter(name="limit", type=Limit, description="at most this many jobs; 500 by default"),
            *(
                Parameter(
                    name=field.encode_name,
                    type=field.type,
                    description=FILTER_MEANINGS.get(field.name, "exactly this"),
                    repeated=FILTERS[field.name],
                )
                for field in msgspec.structs.fields(JobFilter)
            ),
        ),
        responses={200: ResponseSpec(description="The summary", type=Comparison, example=_EXAMPLE)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def compare(self, request: Request) -> Response:
        jobs = self._service.of(request.principal.tenant)
        query = request.query({**FILTERS, "id": True, "limit": False})
        if "id" in query:
            others = [name for name in query if name != "id"]
            if others:
                raise InvalidInput.of(others[0], "cannot be combined with id")
            ids = list(dict.fromkeys(_uuid(text) for text in query["id"]))
        else:
            wanted = convert({"limit": query["limit"][0]} if "limit" in query else {}, _Wanted)
            ids = await self._find(jobs, filter_of(query), wanted.limit)
        return json_response(compare(_by_job(await self._used(jobs, ids))))

    async def _find(self, jobs: TenantJobs, where: JobFilter, limit: int) -> list[UUID]:
        """Return the newest finished jobs that the filter selects."""
        if where.status is None:
            where = msgspec.structs.replace(where, status=[Status.COMPLETED, Status.FAILED])
        found: list[UUID] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await jobs.list(where, limit=min(_PAGE, limit - len(found)), cursor=cursor)
            found += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit:
                break
        return found

    async def _used(self, jobs: TenantJobs, ids: Sequence[UUID]) -> list[UsedByJob]:
        used: list[UsedByJob] = []
        for first in range(0, len(ids), _RESULTS):
            used += await jobs.usage_of(ids[first : first + _RESULTS])
        return used


def _by_job(used: Sequence[UsedByJob]) -> list[Compared]:
    by_job: dict[UUID, list[UsedByJob]] = {}
    for one in used:
        by_job.setdefault(one.job_id, []).append(one)
    return [
        Compared(
            usage=[usage for row in rows for usage in row.usage],
            agreement=[pair for row in rows if row.agreement is not None for pair in _agreement(bytes(row.agreement))],
        )
        for rows in by_job.values()
    ]


def _agreement(column: bytes) -> list[Agreement]:
    """Return the agreement in a result, or nothing if its member of that name has another form."""
    try:
        return msgspec.json.decode(column, type=list[Agreement])
    except (msgspec.MsgspecError, RecursionError):
        return []


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput.of("id", "must be a UUID, as in the job's id") from None
