"""Change runs of flows, and read their gates: typed functions of ``queries.sql``.

Every function takes the connection and the tenant first. None opens a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

import msgspec
from msgspec import Raw

from penstock.flows.kernel.records import (
    Held,
    OnParentEnd,
    Outcome,
    Step,
    StepKind,
    Turn,
)
from penstock.flows.sql.faults import SEPARATOR, fault_text
from penstock.jobs.sql.rows import NO_MAIL, Connection, LimitedKey, Mailed, Queue
from penstock.postgres import queries
from penstock.tenants.principal import TenantId

_sql = queries.load(__file__)
MAX_UNREAD = 1000  # pieces of mail of a run, above which it takes no signals: a runner loads them at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child job of a step, with everything that the statement needs."""

    id: UUID
    series_id: int
    lane_id: int
    queue: Queue = ("", "")
    input: Raw
    max_attempts: int
    timeout_seconds: float | None = None
    concurrency_key: str | None = None
    gate: str = ""  # "run": it is a run itself; "map": a map of items


def keys_of(children: Iterable[Child]) -> list[LimitedKey]:
    """Return the concurrency keys of child jobs: jobs of queues with a rule are blocked until they get a place."""
    return [(child.lane_id, child.concurrency_key) for child in children if child.concurrency_key is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some items of a map."""

    job_id: UUID  # of the map
    first: int
    items: int
    inputs: Raw  # a list


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTurn:
    """A turn of a run, and the one that follows it, with everything that the statement needs.

    ``children`` are by the number of their step.
    """

    run_id: UUID
    epoch: int
    at: float  # seconds since 1970
    turn: Turn
    seen: int  # the id of the newest mail that the run has consumed, in this turn or before
    park: bool
    children: dict[int, Child] = field(default_factory=dict)
    blocks: Sequence[Block] = ()
    limited_key: LimitedKey | None = None  # the lane and concurrency key of the run, if it has one
    progress: Raw | None = None  # overrides the progress that the turn sets

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (self.turn,) if self.turn.then is None else (self.turn, self.turn.then)

    @property
    def outcome(self) -> Outcome | None:
        return self.turn.last.outcome

    @property
    def ends(self) -> bool:
        return self.outcome is not None

    @property
    def is_news(self) -> bool:
        """Whether others have work after it: for a timer, a wait, an event, or jobs to cancel."""
        return any(turn.dropped or any(step.kind in _FOR_OTHERS for step in turn.steps) for turn in self.turns)


class Stored(StrEnum):
    COMMITTED = "committed"
    REPEATED = "repeated"  # the same lease has already committed it
    OVERTAKEN = "overtaken"  # other mail has come before the recorded values that the second turn has consumed
    STALE = "stale"  # another lease holds, or has taken its place in the history


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The outcome of storing a turn."""

    outcome: Stored
    arrived: int  # id of the newest mail; the turn's recorded values are the newest mail, in order
    parked: bool
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The state of a run that has not ended."""

    run_id: UUID
    arrived: int
    seen: int
    need: int
    turns: int
    is_map: bool
    hold: str | None
    started_at: float | None
    now: float
    limited_key: LimitedKey | None  # its lane and concurrency key, if it has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """The outcome of a signal: the ``id`` of the mail, or None if the run has ended or is ``full``."""

    id: int | None
    full: bool  # whether the run has too much unread mail
    repeated: bool
    mailed: Mailed


async def commit(connection: Connection, tenant: TenantId, turns: Sequence[NewTurn]) -> list[Commit]:
    """Store turns, each as a whole or not at all; return the outcome of each, in order."""
    places = [(place, new, turn) for place, new in enumerate(turns, 1) for turn in new.turns]
    steps = [(place, new, step) for place, new, turn in places for step in turn.steps]
    jobs = [(place, no, job) for place, new in enumerate(turns, 1) for no, job in sorted(new.children.items())]
    recorded = [(place, order, one) for place, _, turn in places for order, one in enumerate(turn.recorded, 1)]
    dropped = [(place, no) for place, _, turn in places for no in turn.dropped]
    blocks = [block for new in turns for block in new.blocks]
    rows = await _sql.commit.rows(
        connection,
        tenant_id=tenant,
        run_ids=[new.run_id for new in turns],
        epochs=[new.epoch for new in turns],
        numbers=[new.turn.number for new in turns],
        counts=[len(new.turns) for new in turns],
        befores=[None if new.turn.then is None else new.turn.then.taken[0] - 1 for new in turns],
        ats=[new.at for new in turns],
        seens=[new.seen for new in turns],
        needs=[max(1, new.turn.last.need) for new in turns],
        parks=[new.park for new in turns],
        ends=[new.ends for new in turns],
        progresses=[new.progress or _progress(new.turns) for new in turns],
        recordeds=[len(new.turn.recorded) for new in turns],
        recorded_ats=[new.turn.recorded_at for new in turns],
        childrens=[len(new.children) for new in turns],
        tn_run=[place for place, _, _ in places],
        tn_number=[turn.number for _, _, turn in places],
        tn_at=[new.at if turn is new.turn else new.turn.recorded_at for _, new, turn in places],
        tn_first_no=[turn.first_no for _, _, turn in places],
        tn_taken=[",".join(map(str, turn.taken)) for _, _, turn in places],
        tn_patched=[SEPARATOR.join(turn.patched) or None for _, _, turn in places],
        tn_warnings=[SEPARATOR.join(turn.warnings) or None for _, _, turn in places],
        st_run=[place for place, _, _ in steps],
        st_no=[step.no for _, _, step in steps],
        st_key=[step.key for _, _, step in steps],
        st_kind=[step.kind.value for _, _, step in steps],
        st_name=[step.name for _, _, step in steps],
        st_hash=[step.input_hash for _, _, step in steps],
        st_target=[_json(step.target) for _, _, step in steps],
        st_job=[new.children[step.no].id if step.no in new.children else None for _, new, step in steps],
        st_abandon=[_is_abandoned(step) for _, _, step in steps],
        st_input=[step.input if step.kind in _WITH_INPUT else None for _, _, step in steps],
        st_due=[step.due if step.kind is StepKind.TIMER else None for _, _, step in steps],
        jb_run=[place for place, _, _ in jobs],
        jb_no=[no for _, no, _ in jobs],
        jb_id=[job.id for _, _, job in jobs],
        jb_series=[job.series_id for _, _, job in jobs],
        jb_lane=[job.lane_id for _, _, job in jobs],
        jb_input=[job.input for _, _, job in jobs],
        jb_bytes=[memoryview(job.input).nbytes for _, _, job in jobs],
        jb_attempts=[job.max_attempts for _, _, job in jobs],
        jb_timeout=[job.timeout_seconds for _, _, job in jobs],
        jb_key=[job.concurrency_key for _, _, job in jobs],
        jb_gate=[job.gate for _, _, job in jobs],
        rc_run=[place for place, _, _ in recorded],
        rc_order=[order for _, order, _ in recorded],
        rc_no=[one.no for _, _, one in recorded],
        rc_value=[one.value for _, _, one in recorded],
        rc_category=[one.fault.category.value if one.fault else None for _, _, one in recorded],
        rc_message=[fault_text(one.fault) if one.fault else None for _, _, one in recorded],
        dr_run=[place for place, _ in dropped],
        dr_no=[no for _, no in dropped],
        bl_job=[block.job_id for block in blocks],
        bl_first=[block.first for block in blocks],
        bl_items=[block.items for block in blocks],
        bl_inputs=[block.inputs for block in blocks],
    )
    return [
        Commit(outcome=Stored(row["outcome"]), arrived=row["arrived"], parked=row["parked"], at=row["at"])
        for row in rows
    ]


_FOR_OTHERS = frozenset({StepKind.TIMER, StepKind.EVENT, StepKind.PUBLISH, StepKind.PROGRESS})
_WITH_INPUT = frozenset({StepKind.EVENT, StepKind.PUBLISH})


def _is_abandoned(step: Step) -> bool:
    return step.target is not None and step.target.on_parent_end is OnParentEnd.ABANDON


def _json(value: object) -> bytes | None:
    return None if value is None else msgspec.json.encode(value)


def _progress(turns: Sequence[Turn]) -> Raw | None:
    """Return the progress that turns have set last."""
    set_by = [step.input for turn in turns for step in turn.steps if step.kind is StepKind.PROGRESS]
    return set_by[-1] if set_by else None


async def park(connection: Connection, tenant: TenantId, runs: Sequence[tuple[UUID, int]]) -> set[UUID]:
    """Park resident runs (run, epoch) that have no mail to consume; return those that are parked now."""
    rows = await _sql.park.rows(
        connection, tenant_id=tenant, run_ids=[run for run, _ in runs], epochs=[epoch for _, epoch in runs]
    )
    return {row["run_id"] for row in rows}


async def hold(
    connection: Connection, tenant: TenantId, runs: Sequence[tuple[UUID, int, Held]], *, code: str
) -> set[UUID]:
    """Hold runs that cannot continue with this ``code``, a hash; return those whose epoch still held."""
    rows = await _sql.hold.rows(
        connection,
        tenant_id=tenant,
        run_ids=[run for run, _, _ in runs],
        epochs=[epoch for _, epoch, _ in runs],
        reasons=[held.reason for _, _, held in runs],
        details=[msgspec.json.encode(held) for _, _, held in runs],
        code=code,
    )
    return {row["run_id"] for row in rows}


async def release(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> Mailed:
    """Release held runs; return those that were held."""
    rows = await _sql.release.rows(connection, tenant_id=tenant, run_ids=list(run_ids))
    return Mailed.to([row["run_id"] for row in rows], [row["woken"] for row in rows])


async def died(connection: Connection, tenant: TenantId, run_id: UUID, epoch: int) -> int:
    """Count that a flow process has died while it ran this run; return how often since the run's last turn."""
    deaths: int | None = await _sql.died.value(connection, tenant_id=tenant, run_id=run_id, epoch=epoch)
    return deaths or 0


async def gates(connection: Connection, tenant: TenantId, run_ids: Sequence[UUID]) -> dict[UUID, Gate]:
    """Return the state of those runs that have not ended."""
    rows = await _sql.gates.rows(connection, tenant_id=tenant, run_ids=list(run_ids))
    return {
        row["run_id"]: Gate(
            run_id=row["run_id"],
            arrived=row["arrived"],
            seen=row["seen"],
            need=row["need"],
            turns=row["turns"],
            is_map=row["is_map"],
            hold=row["hold"],
            started_at=row["started_at"],
            now=row["now"],
            limited_key=None if row["concurrency_key"] is None else (row["lane_id"], row["concurrency_key"]),
        )
        for row in rows
    }


async def signal(
    connection: Connection, tenant: TenantId, run_id: UUID, name: str, value: Raw, *, key: str | None
) -> Signalled:
    """Deliver a signal to a run, once for each idempotency key."""
    row = await _sql.signal.row(
        connection, tenant_id=tenant, run_id=run_id, name=name, value=value, key=key, most=MAX_UNREAD
    )
    if row is None:
        return Signalled(id=None, full=False, repeated=False, mailed=NO_MAIL)
    delivered = row["run_id"] is not None
    return Signalled(
        id=row["id"],
        full=row["is_full"],
        repeated=not delivered and not row["is_full"],
        mailed=Mailed.to([row["run_id"]], [row["woken"]]) if delivered else NO_MAIL,
    )
