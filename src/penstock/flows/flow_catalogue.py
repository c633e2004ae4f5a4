"""The flows that runners have: their schemas, and the submissions that start runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import asyncpg
import msgspec
from msgspec import Raw

from penstock.errors import InvalidInput, NotFound
from penstock.flows.sql import catalogue, runs
from penstock.flows.views import FlowCount, FlowList, FlowRequest, FlowVersion, FlowView, Stranded, Trouble
from penstock.jobs.announcements import FLOW
from penstock.jobs.job import JobSubmission, RunSubmission
from penstock.models.checking import Checker
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

ALIVE: Final = timedelta(seconds=30)  # since a runner last showed that it has a flow
_MAX_CHECKERS: Final = 1000
_OPTIONAL: Final[tuple[Literal["version", "priority"], ...]] = ("version", "priority")  # else the catalogue has them


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """A version of a flow, as the catalogue has it."""

    row: asyncpg.Record


class FlowCatalogue:
    """The flows of all runners, which belong to the operator."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._checkers: dict[tuple[str, str], tuple[bytes, Checker]] = {}

    async def flows(self, tenant: TenantId) -> FlowList:
        """Return the known flows, and the tenant's runs that no runner can execute."""
        async with self._database.acquire() as connection:
            versions = await catalogue.versions(connection, alive=ALIVE)
            unfinished = await runs.unfinished_by_queue(connection, tenant)
        alive = alive_of(versions)
        return FlowList(
            flows=[
                FlowView(**_described(row), unfinished=unfinished.get(f"{row['name']}@{row['version']}", 0))
                for row in versions
            ],
            stranded=[
                _stranded(profile, count) for profile, count in sorted(unfinished.items()) if is_lost(profile, alive)
            ],
        )

    async def trouble(self) -> Trouble:
        """Return the runs of all tenants that are held or that no runner can execute."""
        async with self._database.acquire() as connection:
            alive = alive_of(await catalogue.versions(connection, alive=ALIVE))
            held = await runs.held_of_all(connection)
            unfinished = await runs.unfinished_of_all(connection)
        return Trouble(
            held=[FlowCount(flow=row["model_profile"], reason=row["hold"], runs=row["runs"]) for row in held],
            stranded=[FlowCount(flow=flow, runs=count) for flow, count in unfinished.items() if is_lost(flow, alive)],
        )

    async def find(self, name: str, version: str | None) -> FlowVersion | None:
        """Return the description of what ``known`` returns."""
        flow = await self.known(name, version)
        return None if flow is None else FlowVersion(**_described(flow.row))

    async def submission(self, name: str, request: FlowRequest) -> tuple[JobSubmission, InvalidInput | None]:
        """Return a run as a job, and why its input is refused, if it is. Raises NotFound."""
        flow = await self.known(name, request.version)
        if flow is None:
            version = f" version {request.version}" if request.version is not None else ""
            raise NotFound(f"there is no flow {name}{version}; GET /api/v1/flows lists those that runners have")
        return self.submission_of(flow, request), self.refusal(flow, request.input)

    async def known(self, name: str, version: str | None) -> KnownFlow | None:
        """Return a version of a flow, or the one that a run without a version gets now."""
        async with self._database.acquire() as connection:
            row = await catalogue.version_of(connection, name, version, alive=ALIVE)
        return None if row is None else KnownFlow(row)

    def submission_of(self, known: KnownFlow, request: FlowRequest) -> RunSubmission:
        """Return a run of this version of a flow as a job."""
        flow = known.row
        priority = flow["priority"] if request.priority is None else request.priority
        return RunSubmission(
            task_type=FLOW,
            model_profile=f"{flow['name']}@{flow['version']}",
            owner_service=request.owner_service,
            owner_ref=request.owner_ref,
            user_id=request.user_id,
            input=request.input,
            priority=priority or 0,
            run_at=request.run_at,
            ttl_seconds=request.ttl_seconds,
            idempotency_key=request.idempotency_key,
            concurrency_key=request.concurrency_key,
            tags=request.tags,
            callback=request.callback,
            chosen=frozenset(name for name in _OPTIONAL if getattr(request, name) is None),
        )

    def refusal(self, known: KnownFlow, given: Raw) -> InvalidInput | None:
        """Return why this version of a flow refuses an input, or None if it takes it."""
        try:
            value = msgspec.json.decode(given)
        except (msgspec.MsgspecError, RecursionError) as error:
            return InvalidInput.of("input", f"cannot be read: {error}")
        try:
            self._checker(known.row).check(value, prefix="input", json=bytes(given))
        except InvalidInput as error:
            return error
        return None

    def _checker(self, flow: asyncpg.Record) -> Checker:
        key, schema = (flow["name"], flow["version"]), bytes(flow["input_schema"])
        known = self._checkers.get(key)
        if known is None or known[0] != schema:
            if len(self._checkers) >= _MAX_CHECKERS:
                self._checkers.clear()
            known = self._checkers[key] = (schema, Checker(msgspec.json.decode(schema), owner="flow"))
        return known[1]


def _described(row: asyncpg.Record) -> dict[str, Any]:
    """Return a row of the catalogue as fields of FlowVersion."""
    plain = {name: row[name] for name in ("name", "version", "description", "alive")}
    return plain | {name: msgspec.json.decode(row[name]) for name in ("input_schema", "output_schema", "examples")}


def alive_of(versions: Sequence[asyncpg.Record]) -> set[str]:
    return {f"{row['name']}@{row['version']}" for row in versions if row["alive"]}


def is_lost(profile: str, alive: set[str]) -> bool:
    return "@" in profile and profile not in alive


def _stranded(profile: str, count: int) -> Stranded:
    name, _, version = profile.rpartition("@")
    return Stranded(name=name, version=version, unfinished=count)
