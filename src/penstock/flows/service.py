"""The use cases of a tenant's runs of flows."""

from __future__ import annotations

from collections import Counter
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from penstock.errors import InvalidInput, NotFound, TooLarge, WrongState
from penstock.events import store as event_log
from penstock.events.position import Position
from penstock.events.stream import OpenStream
from penstock.flows.events import RunEvents
from penstock.flows.flow_catalogue import ALIVE, FlowCatalogue, is_lost
from penstock.flows.forking import Forking
from penstock.flows.kernel.loop import VERSION as LOOP
from penstock.flows.kernel.records import Held, History
from penstock.flows.sql import catalogue, histories, runs, store
from penstock.flows.tree import page_of_steps
from penstock.flows.views import (
    Difference,
    FlowRequest,
    RunPage,
    RunTree,
    SignalReply,
    StoredHistory,
)
from penstock.jobs.announcements import FLOW, announce, announce_mail
from penstock.jobs.filters import JobFilter
from penstock.jobs.job import Job, JobSummary
from penstock.jobs.service import JobService
from penstock.jobs.sql import names, reading
from penstock.jobs.sql.rows import Mailed
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

_MAX_UUID: Final = UUID(int=2**128 - 1)


class FlowService:
    """The runs of each tenant; ``catalogue`` has the flows."""

    def __init__(self, database: Database, jobs: JobService) -> None:
        self._database = database
        self._jobs = jobs
        self._forking = Forking(database, jobs)
        self.catalogue = FlowCatalogue(database)

    async def list(
        self, tenant: TenantId, where: JobFilter, *, held: bool, stranded: bool, limit: int, cursor: str | None
    ) -> RunPage:
        """Return a page of runs. ``held`` and ``stranded`` select from those that have not ended."""
        if not held and not stranded:
            page = await self._jobs.of(tenant).list(replace(where, task_type=FLOW), limit=limit, cursor=cursor)
            return RunPage(runs=page.jobs, next_cursor=page.next_cursor)
        below = _MAX_UUID if cursor is None else _uuid(cursor)
        async with self._database.acquire() as connection:
            profiles = None if where.model_profile is None else [where.model_profile]
            if stranded:
                alive = {
                    f"{r['name']}@{r['version']}"
                    for r in await catalogue.versions(connection, alive=ALIVE)
                    if r["alive"]
                }
                lost = [one for one in await runs.unfinished_by_queue(connection, tenant) if is_lost(one, alive)]
                profiles = [one for one in lost if profiles is None or one in profiles]
            found = await runs.open_runs(connection, tenant, profiles=profiles, held=held, below=below, limit=limit)
            jobs = await reading.matching(connection, tenant, found, replace(where, task_type=FLOW))
        return RunPage(runs=jobs, next_cursor=str(found[-1]) if len(found) == limit else None)

    async def run(self, tenant: TenantId, run_id: UUID) -> Job:
        """Return the job of a run; raises NotFound, also for a job that is not a run."""
        job = await self._jobs.of(tenant).get(run_id)
        if job.task_type != FLOW:
            raise NotFound(f"there is no run {run_id}")
        return job

    async def tree(self, tenant: TenantId, run_id: UUID, *, from_no: int, limit: int) -> RunTree:
        """Return a run with a page of its steps; raises NotFound."""
        async with self._database.acquire() as connection:
            seen = await event_log.end_position(connection, tenant)
        job = await self.run(tenant, run_id)
        async with self._database.acquire() as connection:
            details = await runs.details(connection, tenant, run_id)
            steps, next_step = await page_of_steps(connection, tenant, job, from_no=from_no, limit=limit)
        held = None if details is None or details["held"] is None else msgspec.json.decode(details["held"], type=Held)
        return RunTree(
            run=_summary(job),
            input=job.input,
            result=job.result,
            difference=None
            if held is None
            else Difference(reason=held.reason, message=held.message, no=held.no, stored=held.stored, found=held.found),
            turns=None if details is None else details["turns"],
            steps=steps,
            next_step=next_step,
            last_event_id=str(seen),
        )

    async def events(self, tenant: TenantId, run_id: UUID, after: Position | None) -> OpenStream:
        """Open a stream of the events of a run and of all that it issues. Raises TooLarge."""
        return await self._events(tenant).of_run(run_id, after)

    async def events_over(self, tenant: TenantId, run_id: UUID, after: Position) -> bool:
        """Return whether a run has ended and has no event after ``after``; raises NotFound."""
        return await self._events(tenant).is_over(run_id, after)

    def _events(self, tenant: TenantId) -> RunEvents:
        return RunEvents(self._database, tenant, self._jobs.of(tenant).tail)

    async def signal(self, tenant: TenantId, run_id: UUID, name: str, value: Raw, *, key: str | None) -> SignalReply:
        """Deliver a signal to a run, once for each idempotency key. Raises NotFound, and WrongState if it has ended."""
        async with self._database.acquire() as connection:
            sent = await store.signal(connection, tenant, run_id, name, value, key=key)
        self._announce(tenant, sent.mailed)
        if sent.id is None and sent.full:
            raise WrongState(
                f"run {run_id} has {store.MAX_UNREAD} unread pieces of mail; send signals again when it has read them"
            )
        if sent.id is None:
            job = await self.run(tenant, run_id)
            raise WrongState(f"run {run_id} is {job.status}; only runs that have not ended take signals")
        return SignalReply(id=sent.id, repeated=sent.repeated)

    async def cancel(self, tenant: TenantId, run_id: UUID, *, force: bool) -> Job:
        """Request that a run stop or, with ``force``, end it at once without its code. Raises NotFound, WrongState."""
        job = await self.run(tenant, run_id)
        if not force:
            return await self._jobs.of(tenant).cancel(run_id)
        for _ in range(_TRIES):  # a claim or a turn may move the run in the meantime
            if job.status.finished:
                break
            async with self._database.acquire() as connection, connection.transaction():
                mailed = await runs.end_open(connection, tenant, run_id)
            if mailed is not None:
                announce(self._jobs.wakeups, finished=[run_id], cancelled=True)
                self._announce(tenant, mailed)
                await self._admit(tenant, job)  # its place is free
            job = await self.run(tenant, run_id)
        if job.status is not Status.CANCELLED:
            raise WrongState(f"run {run_id} is {job.status}; only runs that have not ended can be cancelled")
        return job

    async def release(self, tenant: TenantId, run_id: UUID) -> Job:
        """Release a held run. Raises NotFound and WrongState."""
        await self.run(tenant, run_id)
        async with self._database.acquire() as connection:
            mailed = await store.release(connection, tenant, [run_id])
        self._announce(tenant, mailed)
        job = await self.run(tenant, run_id)
        if not mailed.runs:
            raise WrongState(f"run {run_id} is {job.status} and not held")
        return job

    async def retry(self, tenant: TenantId, run_id: UUID) -> Job:
        """Retry a failed run from the step that failed. Raises NotFound and WrongState."""
        return await self._forking.retry(tenant, await self._code_run(tenant, run_id))

    async def rerun(
        self, tenant: TenantId, run_id: UUID, *, step: int, value: Raw | None, key_id: str, counted: bool = False
    ) -> Job:
        """Start a new run that reuses the steps of another before one. Raises NotFound, WrongState and InvalidInput."""
        run = await self._code_run(tenant, run_id)
        if value is not None:
            name, _, version = run.model_profile.rpartition("@")
            _, refusal = await self.catalogue.submission(name, FlowRequest(input=value, version=version))
            if refusal is not None:
                raise refusal
        return await self._forking.rerun(tenant, run, step=step, value=value, key_id=key_id, counted=counted)

    async def _code_run(self, tenant: TenantId, run_id: UUID) -> Job:
        run = await self.run(tenant, run_id)
        if "@" not in run.model_profile:
            raise WrongState(f"run {run_id} is a map; retry the run that issued it")
        return run

    async def history(self, tenant: TenantId, run_id: UUID) -> StoredHistory:
        """Return the history of a run, with its input and results. Raises NotFound and TooLarge."""
        job = await self.run(tenant, run_id)
        name, _, version = job.model_profile.rpartition("@")
        if not name:
            raise NotFound(f"run {run_id} is a map, which has no history of its own")
        async with self._database.acquire() as connection:
            size = await runs.history_bytes(connection, tenant, run_id)
            if size > _MAX_HISTORY_BYTES:
                raise TooLarge(
                    f"the history of run {run_id} has about {size} bytes; at most {_MAX_HISTORY_BYTES} can be returned"
                )
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                turns = (await histories.turns(connection, tenant, [run_id]))[run_id]
                steps = (await histories.steps(connection, tenant, [run_id]))[run_id]
                mail = (await histories.mail(connection, tenant, [(run_id, 0)]))[run_id]
        taken = {mail_id for turn in turns for mail_id in turn.taken}
        history = History(
            run_id=run_id,
            flow=name,
            version=version,
            loop=LOOP,
            input=job.input,
            started_at=turns[0].at if turns else job.created_at.timestamp(),
            turns=turns,
            steps=steps,
            mail=[one for one in mail if one.id in taken],
        )
        return StoredHistory(ended=job.status.finished, history=history)

    async def move(self, tenant: TenantId, run_id: UUID, version: str) -> Job:
        """Continue a run that has not ended with the code of another version, which replays its history first.

        A run that is held is released. Raises NotFound, and WrongState if it has ended or is being executed.
        """
        job = await self.run(tenant, run_id)
        name, _, _ = job.model_profile.rpartition("@")
        async with self._database.acquire() as connection:
            if await catalogue.version_of(connection, name, version, alive=ALIVE) is None:
                raise NotFound(
                    f"there is no flow {name} version {version}; GET /api/v1/flows lists those that runners have"
                )
            queue = (FLOW, f"{name}@{version}")
            series = (job.owner_service, *queue)
            lane = (*queue, job.priority, job.concurrency_key is not None)
            series_id = (await names.resolve_series(connection, tenant, [series]))[series]
            lane_id = (await names.resolve_lanes(connection, tenant, [lane]))[lane]
            async with connection.transaction():
                moved = await runs.move_open(connection, tenant, run_id, series=series_id, lane=lane_id)
            if moved is None:
                job = await self.run(tenant, run_id)
                raise WrongState(f"run {run_id} is {job.status}; only runs that wait or are held can be moved")
            mailed = await store.release(connection, tenant, [run_id])
        if moved["ready"]:
            announce(self._jobs.wakeups, ready=Counter({(tenant, *queue): 1}))
        self._announce(tenant, mailed)
        await self._admit(tenant, job)
        moved_job = await self.run(tenant, run_id)
        await self._admit(tenant, moved_job)
        return moved_job

    async def _admit(self, tenant: TenantId, job: Job) -> None:
        """Request an admission to a place that a job has left or needs, if it has a concurrency key."""
        if job.concurrency_key is None:
            return
        lane = (job.task_type, job.model_profile, job.priority, True)
        async with self._database.acquire() as connection:
            lanes = await names.resolve_lanes(connection, tenant, [lane])
        self._jobs.admissions.request([(lanes[lane], job.concurrency_key)])

    def _announce(self, tenant: TenantId, mailed: Mailed) -> None:
        announce_mail(self._jobs.wakeups, tenant, mailed)
        self._jobs.admissions.request(mailed.blocked)


_TRIES: Final = 20
_MAX_HISTORY_BYTES: Final = 64 * 2**20


def _summary(job: Job) -> JobSummary:
    return JobSummary(**{name: getattr(job, name) for name in JobSummary.__struct_fields__})


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput.of("cursor", "must be the next_cursor of an earlier page") from None
