"""The group commits of a tenant's runs: one statement stores the turns that many runs make at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Raw

from penstock.batching import Batching
from penstock.errors import InvalidInput, ServiceError
from penstock.failures import Category
from penstock.flows.kernel.records import Completed, Failed, Fault, Held, Outcome
from penstock.flows.sql import store
from penstock.flows.sql.store import Commit, NewTurn, Stored, keys_of
from penstock.jobs.announcements import announce, announce_mail
from penstock.jobs.service import JobService
from penstock.jobs.sql import store as job_store
from penstock.jobs.sql.rows import NO_MAIL, Connection, LimitedKey, Mailed
from penstock.jobs.sql.store import Verdict
from penstock.jobs.states import Over, Status
from penstock.jobs.work import JobCompletion
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.tenants.principal import TenantId

log = logs.get(__name__)

_REFUSED: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_UNLUCKY: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_FIRST_DELAY: Final = 0.05  # seconds until a statement whose outcome is unknown is repeated
_LONGEST_DELAY: Final = 2.0
_MAX_BYTES: Final = 8 * 2**20  # of one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    """A resident run that is to be parked."""

    run_id: UUID
    epoch: int
    limited_key: LimitedKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What the ends of runs have led to."""

    mailed: Mailed = NO_MAIL
    freed: Sequence[LimitedKey] = ()


class RunWriter:
    """The batchers of one tenant."""

    def __init__(self, database: Database, tenant: TenantId, jobs: JobService) -> None:
        self._database = database
        self._tenant = tenant
        self._jobs = jobs
        self._turns: Batching[NewTurn, Commit] = Batching(
            self._commit, concurrency=2, refused=_REFUSED, unlucky=_UNLUCKY, weigh=_weight, max_bytes=_MAX_BYTES,
            refusal=lambda _turn, error: InvalidInput.of("turn", f"the database refuses it: {error}"),
        )  # fmt: skip
        self._parkings: Batching[Parking, bool] = Batching(self._park, concurrency=1, unlucky=_UNLUCKY)

    async def commit(self, turn: NewTurn) -> Commit:
        """Store a turn. Repeat this while the database is unavailable: the statement detects a turn that is stored.

        Raises InvalidInput when the database refuses the content of the turn.
        """
        delay = _FIRST_DELAY
        while True:
            try:
                return await self._turns.put(turn)
            except ServiceError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)

    async def park(self, run_id: UUID, epoch: int, limited_key: LimitedKey | None = None) -> bool:
        """Park a run unless mail that it needs has arrived; return whether it is parked or its lease was lost."""
        return await self._parkings.put(Parking(run_id=run_id, epoch=epoch, limited_key=limited_key))

    async def hold(
        self, run_id: UUID, epoch: int, held: Held, *, code: str, limited_key: LimitedKey | None = None
    ) -> None:
        """Hold a run; nothing happens if its lease was lost."""
        async with self._database.acquire() as connection:
            await store.hold(connection, self._tenant, [(run_id, epoch, held)], code=code)
        announce(self._jobs.wakeups)
        self._free([limited_key])

    async def died(self, run_id: UUID, epoch: int) -> int:
        """Count that a flow process has died while it ran this run; return how often since its last turn."""
        async with self._database.acquire() as connection:
            return await store.died(connection, self._tenant, run_id, epoch)

    async def _park(self, parkings: Sequence[Parking]) -> list[bool]:
        runs = [(one.run_id, one.epoch) for one in parkings]
        async with self._database.acquire() as connection:
            parked = await store.park(connection, self._tenant, runs)
        self._free(one.limited_key for one in parkings)
        return [one.run_id in parked for one in parkings]

    async def _commit(self, turns: Sequence[NewTurn]) -> list[Commit | BaseException]:
        ending = any(turn.ends for turn in turns)
        async with self._database.acquire() as connection:
            if not ending:
                commits, ended = await store.commit(connection, self._tenant, turns), _Ended()
            else:
                async with connection.transaction():
                    commits = await store.commit(connection, self._tenant, turns)
                    stored = [
                        t for t, c in zip(turns, commits, strict=True) if t.ends and c.outcome is Stored.COMMITTED
                    ]
                    ended = await self._end(connection, stored)
        self._announce(turns, commits, ended.mailed)
        self._admit(turns, commits, ended)
        _log_failures(_committed(turns, commits))
        return list(commits)

    async def _end(self, connection: Connection, turns: Sequence[NewTurn]) -> _Ended:
        """End the jobs of runs that have ended, in the transaction that has stored their last turn."""
        completions = [
            JobCompletion(id=turn.run_id, epoch=turn.epoch, result=turn.outcome.result)
            for turn in turns
            if isinstance(turn.outcome, Completed)
        ]
        verdicts = [
            _verdict(turn.run_id, turn.outcome)
            for turn in turns
            if turn.outcome is not None and not isinstance(turn.outcome, Completed)
        ]
        mailed, freed = NO_MAIL, list[LimitedKey]()
        if completions:
            done = await job_store.complete(connection, self._tenant, completions, is_call=False)
            mailed, freed = done.mailed, list(done.freed)
        if verdicts:
            ends, also = await job_store.end_attempts(connection, self._tenant, verdicts, is_call=False)
            mailed, freed = mailed + also, [*freed, *job_store.freed_by(ends.values())]
        return _Ended(mailed=mailed, freed=freed)

    def _announce(self, turns: Sequence[NewTurn], commits: Sequence[Commit], mailed: Mailed) -> None:
        stored = _committed(turns, commits)
        ready = Counter((self._tenant, *child.queue) for turn in stored for child in turn.children.values())
        finished = [turn.run_id for turn in stored if turn.ends]
        if ready or finished or any(turn.is_news for turn in stored):
            announce(self._jobs.wakeups, ready=ready, finished=finished)
        announce_mail(self._jobs.wakeups, self._tenant, mailed)

    def _admit(self, turns: Sequence[NewTurn], commits: Sequence[Commit], ended: _Ended) -> None:
        """Request admissions to places that runs have left, and of new jobs and woken runs that are blocked."""
        stored = _committed(turns, commits)
        parked = [turn for turn, commit in zip(turns, commits, strict=True) if commit.parked]
        children = keys_of(child for turn in stored for child in turn.children.values())
        self._jobs.admissions.request([*ended.freed, *ended.mailed.blocked, *children])
        self._free(turn.limited_key for turn in parked)

    def _free(self, keys: Iterable[LimitedKey | None]) -> None:
        self._jobs.admissions.request([key for key in keys if key is not None])


def _committed(turns: Sequence[NewTurn], commits: Sequence[Commit]) -> list[NewTurn]:
    return [turn for turn, commit in zip(turns, commits, strict=True) if commit.outcome is Stored.COMMITTED]


def _log_failures(turns: Sequence[NewTurn]) -> None:
    """Log the stacks of runs that have failed by a mistake in their code; callers see only its place."""
    for turn in turns:
        if isinstance(turn.outcome, Failed) and turn.outcome.stack:
            fault = turn.outcome.fault
            level = log.warning if _is_mistake(fault) else log.info
            level("run_failed", run_id=str(turn.run_id), category=fault.category, stack=turn.outcome.stack)


def _is_mistake(fault: Fault) -> bool:
    """Return whether a fault was not foreseen: it is neither a refusal of the input nor the failure of a step."""
    return fault.category is Category.INTERNAL and fault.type not in {"StepFailed", "StepCancelled"}


def _verdict(run_id: UUID, outcome: Outcome) -> Verdict:
    if isinstance(outcome, Failed):
        fault = outcome.fault
        named = not fault.type or fault.message.startswith(fault.type) or not _is_mistake(fault)
        text = fault.message if named else f"{fault.type}: {fault.message}"
        place = _place(outcome.stack) if _is_mistake(fault) else ""
        message = f"{text}{place}"[:10_000]
        return Verdict(job_id=run_id, outcome=Over(status=Status.FAILED), category=fault.category, message=message)
    return Verdict(
        job_id=run_id,
        outcome=Over(status=Status.CANCELLED),
        category=Category.CANCELLED,
        message="cancelled on request",
    )


def _place(stack: str) -> str:
    """Return the innermost frame of a stack without its folder, as `` (order.py:31)``."""
    if not stack:
        return ""
    path, _, _ = stack.splitlines()[-1].partition(" in ")
    return f" ({path.rpartition('/')[2]})"


def _weight(turn: NewTurn) -> int:
    """Return roughly how many bytes of users' values a turn carries."""
    values: list[Raw | None] = [one.value for one in turn.turn.recorded]
    values += [child.input for child in turn.children.values()]
    values += [block.inputs for block in turn.blocks]
    if isinstance(turn.outcome, Completed):
        values.append(turn.outcome.result)
    return 500 + sum(memoryview(value).nbytes for value in values if value is not None)
