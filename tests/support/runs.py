"""Runs of flows for tests of what is stored: turns are made by hand, without any code of a flow."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.flows.kernel.records import (
    Completed,
    OnParentEnd,
    Outcome,
    Recorded,
    Step,
    StepKind,
    Target,
    Turn,
)
from penstock.flows.sql import store as flow_store
from penstock.flows.sql.store import Child, Commit, NewTurn
from penstock.jobs.job import JobSubmission
from penstock.jobs.sql import store
from penstock.jobs.sql.rows import Connection
from penstock.jobs.work import ClaimedJob, JobCompletion
from tests.support.databases import query
from tests.support.jobs import JobCaller

PROFILE = "f@1"
HOMES = {
    "ready": "SELECT 1 FROM ready WHERE job_id = $1",
    "later": "SELECT 1 FROM later WHERE job_id = $1",
    "lease": "SELECT 1 FROM lease WHERE job_id = $1",
    "done": "SELECT 1 FROM done WHERE job_id = $1",
    "parked": "SELECT 1 FROM flow_gate WHERE run_id = $1 AND parked_at IS NOT NULL",
}


class ManualRun:
    """A run of a job; the test takes the runner's place and decides when each turn happens."""

    def __init__(self, caller: JobCaller, job: ClaimedJob) -> None:
        self.caller = caller
        self.id = job.id
        self.epoch = job.epoch
        self.turns = 0
        self.steps = 0
        self.seen = 0
        self.children: dict[int, UUID] = {}

    @classmethod
    async def begin(
        cls, caller: JobCaller, *, calls: int = 0, park: bool = False, need: int = 1, **fields: Any
    ) -> ManualRun:
        """Submit and claim a run, and commit its first turn, which issues calls; ``fields`` are those of the job."""
        await caller.submit(task_type="flow", model_profile=PROFILE, **fields)
        await caller.service._shared.admissions.drain()
        run = cls(caller, await caller.claim_one(task_types=["flow"]))
        await run.commit(calls=calls, park=park, need=need)
        return run

    async def claim_again(self) -> None:
        """Claim the run after it was woken, as any runner may."""
        job = await self.caller.claim_one(task_types=["flow"])
        assert job.id == self.id
        self.epoch = job.epoch

    async def commit(self, **turn: Any) -> Commit:
        """Commit the next turn on a connection of its own."""
        async with self.caller.service._shared.database.acquire() as connection:
            return await self.commit_on(connection, **turn)

    async def commit_on(self, connection: Connection, **fields: Any) -> Commit:
        """Commit the next turn; see ``next_turn`` for its fields."""
        (commit,) = await flow_store.commit(connection, self.caller.tenant, [await self.next_turn(**fields)])
        return commit

    async def next_turn(
        self,
        *,
        calls: int = 0,
        record: bytes | None = None,
        timer: float | None = None,
        event: str | None = None,
        match: bytes | None = None,
        take: int = 0,
        need: int = 1,
        park: bool = False,
        dropped: list[int] | None = None,
        outcome: Outcome | None = None,
        on_parent_end: OnParentEnd = OnParentEnd.CANCEL,
        flow: bool = False,
    ) -> NewTurn:
        """Return the next turn, which consumes ``take`` pieces of mail and issues the given steps."""
        first = self.steps
        target = Target(task_type="echo", model_profile="small", on_parent_end=on_parent_end)
        if flow:
            target = Target(task_type="flow", model_profile="child@1", on_parent_end=on_parent_end)
        steps = [
            Step(no=no, key=f"call#{no}", kind=StepKind.CALL, name="small", target=target, input=Raw(b"{}"))
            for no in range(first, first + calls)
        ]
        if record is not None:
            steps.append(Step(no=first + len(steps), key="value", kind=StepKind.RECORD, name="value"))
        if timer is not None:
            steps.append(Step(no=first + len(steps), key="sleep", kind=StepKind.TIMER, name="sleep", due=timer))
        if event is not None:
            steps.append(
                Step(no=first + len(steps), key="event", kind=StepKind.EVENT, name=event, input=Raw(match or b"{}"))
            )
        self.steps += len(steps)
        taken = list(range(self.seen + 1, self.seen + take + 1))
        self.seen += take
        turn = Turn(
            number=self.turns,
            taken=taken,
            first_no=first,
            steps=steps,
            recorded=[Recorded(no=steps[-1].no, value=Raw(record))] if record is not None else [],
            dropped=dropped or [],
            need=need,
            outcome=outcome,
        )
        self.turns += 1
        children = await self._children(steps, flow=flow)
        self.children |= {no: child.id for no, child in children.items()}
        return NewTurn(
            run_id=self.id, epoch=self.epoch, at=1.0, turn=turn, seen=self.seen, park=park, children=children
        )

    async def _children(self, steps: list[Step], *, flow: bool) -> dict[int, Child]:
        names = self.caller.service.of(self.caller.tenant)._names
        found = {}
        for step in steps:
            if step.target is None:
                continue
            submission = JobSubmission(
                owner_service="tests", task_type=step.target.task_type, model_profile=step.target.model_profile
            )
            await names.resolve([submission], "")
            series, lane, _ = names.known_ids(submission, "")
            found[step.no] = Child(
                id=uuid7(),
                series_id=series,
                lane_id=lane,
                input=Raw(b"{}"),
                max_attempts=3,
                gate="run" if flow else "",
            )
        return found

    async def end_on(self, connection: Connection) -> Commit:
        """Complete the run in the transaction of ``connection``."""
        commit = await self.commit_on(connection, outcome=Completed(result=Raw(b"1")))
        await store.complete(
            connection, self.caller.tenant, [JobCompletion(id=self.id, epoch=self.epoch, result=Raw(b"1"))]
        )
        return commit

    async def gate(self) -> dict[str, Any]:
        """Return the columns of the gate that tests check."""
        names = ("arrived", "seen", "need", "urgent", "children", "turns", "hold")
        rows = await query(
            self.caller.service._shared.database,
            f"SELECT {', '.join(names)}, parked_at IS NOT NULL FROM flow_gate WHERE run_id = $1",
            self.id,
        )
        return dict(zip((*names, "parked"), rows[0], strict=True)) if rows else {}

    async def home(self) -> str:
        """Return the one table that holds the run."""
        return await home(self.caller, self.id)


async def home(caller: JobCaller, job_id: UUID) -> str:
    """Return the one place that holds the job's state; there must be exactly one."""
    database = caller.service._shared.database
    (found,) = [name for name, sql in HOMES.items() if await query(database, sql, job_id)]
    return found
