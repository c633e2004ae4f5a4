"""The short ids of series, lanes and submitters, cached in each process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from penstock.jobs.job import JobSubmission
from penstock.jobs.sql import names as statements
from penstock.jobs.sql.rows import Connection, Lane
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

ClaimedNames = Mapping[int, tuple[str, str, str, str]]  # tenant, owner, task type, model profile; by series id

_MAX_NAMES = 50_000  # names of each kind that one process remembers


class Names:
    """Series, lane and submitter ids of one tenant. Ids never change, so cached ones stay valid."""

    def __init__(self, database: Database, tenant: TenantId) -> None:
        self._database = database
        self._tenant = tenant
        self._series: dict[tuple[str, str, str], int] = {}
        self._lanes: dict[Lane, int] = {}
        self._submitters: dict[tuple[str, str], int] = {}
        self._described: dict[int, tuple[str, str, str]] = {}

    def has_ids(self, submission: JobSubmission, key_id: str) -> bool:
        """Return whether the submission's ids are cached, as ``known_ids`` needs; if not, call ``resolve`` first."""
        queue = (submission.task_type, submission.model_profile)
        return (
            (submission.owner_service, *queue) in self._series
            and (*queue, submission.priority, submission.concurrency_key is not None) in self._lanes
            and (key_id, submission.user_id) in self._submitters
        )

    def known_ids(self, submission: JobSubmission, key_id: str) -> tuple[int, int, int]:
        """Return the series, the lane and the submitter of a submission whose ids are cached."""
        queue = (submission.task_type, submission.model_profile)
        return (
            self._series[submission.owner_service, *queue],
            self._lanes[*queue, submission.priority, submission.concurrency_key is not None],
            self._submitters[key_id, submission.user_id],
        )

    async def resolve(self, submissions: Sequence[JobSubmission], key_id: str) -> None:
        """Look up the ids of all names in the submissions, and create those that are new."""
        for known in (self._series, self._lanes, self._submitters):
            if len(known) > _MAX_NAMES:
                known.clear()
        submitters = {(key_id, s.user_id) for s in submissions} - self._submitters.keys()
        series = {(s.owner_service, s.task_type, s.model_profile) for s in submissions} - self._series.keys()
        lanes = {
            (s.task_type, s.model_profile, s.priority, s.concurrency_key is not None) for s in submissions
        } - self._lanes.keys()
        if series or lanes or submitters:
            async with self._database.acquire() as connection:
                self._series |= await statements.resolve_series(connection, self._tenant, list(series))
                self._lanes |= await statements.resolve_lanes(connection, self._tenant, list(lanes))
                self._submitters |= await statements.resolve_submitters(connection, self._tenant, list(submitters))

    def has_lane(self, submission: JobSubmission) -> bool:
        """Return whether the series and the lane of a submission are cached, as ``lane_of`` needs."""
        queue = (submission.task_type, submission.model_profile)
        lane = (*queue, submission.priority, submission.concurrency_key is not None)
        return (submission.owner_service, *queue) in self._series and lane in self._lanes

    def lane_of(self, submission: JobSubmission) -> tuple[int, int]:
        """Return the series and the lane of a submission whose ids are cached."""
        queue = (submission.task_type, submission.model_profile)
        lane = (*queue, submission.priority, submission.concurrency_key is not None)
        return self._series[submission.owner_service, *queue], self._lanes[lane]

    async def resolve_lanes(self, submissions: Sequence[JobSubmission]) -> None:
        """Look up the series and lanes of submissions of a known submitter, and create those that are new."""
        async with self._database.acquire() as connection:
            self._series |= await statements.resolve_series(
                connection, self._tenant, [(s.owner_service, s.task_type, s.model_profile) for s in submissions]
            )
            self._lanes |= await statements.resolve_lanes(
                connection,
                self._tenant,
                [(s.task_type, s.model_profile, s.priority, s.concurrency_key is not None) for s in submissions],
            )

    async def describe(self, connection: Connection, series: Iterable[int]) -> dict[int, tuple[str, str, str]]:
        """Return owner, task type and model profile by series id, for at least those of ``series`` that exist."""
        wanted = set(series)
        unknown = wanted - self._described.keys()
        if unknown:
            if len(self._described) > _MAX_NAMES:
                self._described.clear()
                unknown = wanted
            self._described |= await statements.describe_series(connection, self._tenant, sorted(unknown))
        return self._described


class ClaimNames:
    """The names of series and tenants in claimed jobs, of all tenants. They never change, so cached ones stay valid."""

    def __init__(self) -> None:
        self._described: dict[int, tuple[str, str, str, str]] = {}
        self._tenants: dict[str, TenantId] = {}

    async def describe(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> ClaimedNames:
        """Return the names by series id, for at least the series of the claimed ``rows``."""
        if {row["series_id"] for row in rows} - self._described.keys():
            if len(self._described) > _MAX_NAMES:
                self._described.clear()
            unknown = {row["series_id"]: row["tenant_id"] for row in rows if row["series_id"] not in self._described}
            found = await statements.describe_claimed(connection, sorted(unknown))
            self._described |= found
            self._tenants |= {found[series][0]: TenantId(tenant) for series, tenant in unknown.items()}
        return self._described

    def tenant(self, name: str) -> TenantId:
        """Return the id of a tenant of which this process has claimed jobs; raises KeyError for any other."""
        return self._tenants[name]
