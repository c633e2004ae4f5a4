"""Retry a failed run from its failed step, and run one again from a step as a new run."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.callbacks import store as callback_store
from penstock.callbacks.announcing import SUBMITTED
from penstock.errors import InvalidInput, WrongState
from penstock.flows.sql import forks
from penstock.jobs.announcements import announce
from penstock.jobs.callbacks import ENDED
from penstock.jobs.fields import APP_OWNER
from penstock.jobs.job import Job
from penstock.jobs.service import JobService
from penstock.jobs.sql import names
from penstock.jobs.states import Status
from penstock.postgres.pool import Database
from penstock.quotas import store as quota_store
from penstock.tenants.principal import TenantId


class Forking:
    """Continues runs and starts new ones from stored histories. Jobs of completed steps do not run again."""

    def __init__(self, database: Database, jobs: JobService) -> None:
        self._database = database
        self._jobs = jobs

    async def retry(self, tenant: TenantId, run: Job) -> Job:
        """Retry a failed run from the step that failed, which gets a new job. Raises WrongState."""
        async with self._database.acquire() as connection, connection.transaction():
            ended = await forks.ended_run(connection, tenant, run.id)
            if ended is None or ended["status"] != Status.FAILED.value:
                status = run.status if ended is None else ended["status"]
                raise WrongState(f"run {run.id} is {status}; only failed runs can be retried")
            if ended["has_parent"]:
                raise WrongState(
                    f"run {run.id} is a child of a run that has not ended; retry the parent once it has failed"
                )
            turn = await forks.failed_turn(connection, tenant, run.id)
            if turn is None:
                raise WrongState(f"run {run.id} has not begun; start a new one")
            await forks.reopen(connection, tenant, run.id, turn=turn, ended_at=ended["finished_at"])
            await quota_store.count_jobs(connection, tenant, [run.id])
        await self._announce(tenant, run, run.id)
        return await self._jobs.of(tenant).get(run.id)

    async def rerun(
        self, tenant: TenantId, run: Job, *, step: int, value: Raw | None, key_id: str, counted: bool = False
    ) -> Job:
        """Start a new run that reuses the steps of an ended run, up to one of them. Raises WrongState, InvalidInput.

        ``counted``: whether a quota counts the pending jobs of the key or user.
        """
        new_id = uuid7()
        marketplace = await self._marketplace(tenant, run)
        async with self._database.acquire() as connection:
            submitter = (key_id, run.user_id)
            submitter_id = (await names.resolve_submitters(connection, tenant, [submitter]))[submitter]
            async with connection.transaction():
                ended = await forks.ended_run(connection, tenant, run.id)
                if ended is None:
                    raise WrongState(f"run {run.id} is {run.status}; only runs that have ended can be run again")
                turn = await forks.turn_of(connection, tenant, run.id, step)
                if turn is None:
                    raise InvalidInput.of("step", f"must be the number of a step of run {run.id}")
                await forks.copy(
                    connection,
                    tenant,
                    run.id,
                    new_id,
                    turn=turn,
                    input=value,
                    submitter_id=submitter_id,
                    ended_at=ended["finished_at"],
                )
                if counted:
                    await quota_store.count_jobs(connection, tenant, [new_id])
                is_first = marketplace is not None and await callback_store.attach(
                    connection, tenant, {new_id: (None, marketplace)}, kinds=sorted(ENDED)
                )
        if is_first:
            self._jobs.wakeups.announce(SUBMITTED)
        await self._announce(tenant, run, new_id)
        return await self._jobs.of(tenant).get(new_id)

    async def _marketplace(self, tenant: TenantId, run: Job) -> UUID | None:
        """Return the endpoint of the marketplace for the rerun of an app's request, which is a request as well."""
        if self._jobs.callbacks is None or not run.owner_service.startswith(APP_OWNER):
            return None
        return await self._jobs.callbacks.marketplace(tenant, ENDED)

    async def _announce(self, tenant: TenantId, run: Job, forked: UUID) -> None:
        announce(self._jobs.wakeups, ready=Counter({(tenant, run.task_type, run.model_profile): 1}))
        # Wake the workers of every queue, because child jobs of the run may be ready again.
        announce(self._jobs.wakeups, ready=Counter({(tenant, "", ""): 1}))
        async with self._database.acquire() as connection:
            self._jobs.admissions.request(await forks.blocked(connection, tenant, forked))
