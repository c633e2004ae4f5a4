"""Executes a map: one job that keeps a window of child jobs running. It involves no flow code."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw
from uuid_utils.compat import uuid7

from penstock.failures import Category
from penstock.flows.kernel.records import Completed, Failed, Fault, MapItem, Outcome, Status, Turn
from penstock.flows.runner.children import MapInput, child_of, submission_of
from penstock.flows.runner.executor import Tools
from penstock.flows.sql import maps
from penstock.flows.sql.faults import fault_of
from penstock.flows.sql.maps import MapState, NextBlock
from penstock.flows.sql.store import Child, NewTurn, keys_of
from penstock.flows.views import MapCounts
from penstock.jobs.announcements import FLOW, announce
from penstock.jobs.service import JobService
from penstock.jobs.work import ClaimedJob
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.tenants.principal import TenantId

_PAGE: Final = 1000  # outcomes read at a time
_MAX_BLOCKS: Final = 16  # begun by one statement
_BRACKETS: Final = 2
_inputs: Final = msgspec.json.Decoder(list[Raw])
_REPORT_INTERVAL: Final = 1.0  # seconds between two events with the counts of a map, while it is resident


class MapExecution:
    """The execution of one map under one lease."""

    def __init__(
        self, job: ClaimedJob, tools: Tools, *, database: Database, tenant: TenantId, jobs: JobService
    ) -> None:
        self._job = job
        self._tools = tools
        self._database = database
        self._tenant = tenant
        self._jobs = jobs
        self._reported_at: float | None = None  # by the loop's clock
        self._given = msgspec.json.decode(job.input, type=MapInput)

    async def execute(self) -> str:
        """Run until the map ends or is parked; return which."""
        with self._tools.mailboxes.open(self._job.id) as news:
            while True:
                news.clear()
                loaded = await self._tools.reader.load(self._job.id)
                if loaded is None:
                    return "stale"
                state = await self._begin_blocks()
                if state is None:
                    return "stale"
                outcome = await self._outcome(state)
                await self._report(last=outcome is not None)
                if outcome is not None:
                    return await self._end(outcome, state)
                if await self._rests(news):
                    return "parked"

    async def _report(self, *, last: bool = False) -> None:
        """Store an event with the counts of the items, at most one a second, so that readers need not follow items."""
        now = asyncio.get_running_loop().time()
        if not last and self._reported_at is not None and now < self._reported_at + _REPORT_INTERVAL:
            return
        self._reported_at = now
        async with self._database.acquire() as connection:
            await maps.report(connection, self._tenant, self._job.id, self._job.epoch)
        announce(self._jobs.wakeups)

    async def _begin_blocks(self) -> MapState | None:
        """Begin as many blocks as the limit allows; return the state afterwards, or None if the lease was lost."""
        while True:
            async with self._database.acquire() as connection:
                state = await maps.state(connection, self._tenant, self._job.id)
                room = (self._given.limit - state.running) // state.largest
                if state.failed and self._given.fail_fast:
                    room = 0
                room = min(room or int(not state.running and not state.failed), state.left, _MAX_BLOCKS)
                if room <= 0:
                    return state
                blocks = await maps.next_blocks(connection, self._tenant, self._job.id, limit=room)
            items, job = _items(blocks), await self._item_job()
            async with self._database.acquire() as connection:
                held = await maps.pump(
                    connection, self._tenant, self._job.id, self._job.epoch, blocks=blocks, items=items, job=job
                )
            if not held:
                return None
            queue = (self._tenant, self._given.target.task_type, self._given.target.model_profile)
            announce(self._jobs.wakeups, ready=Counter({queue: len(items)}))
            self._jobs.admissions.request(keys_of([job]))

    async def _item_job(self) -> Child:
        """Return the job of an item, without its input: apart from that and its id, the jobs of all items are alike."""
        target, names = self._given.target, self._tools.names
        submission = submission_of(target, self._job, priority=self._given.priority, value=Raw(b"null"))
        if not names.has_lane(submission):
            await names.resolve_lanes([submission])
        gate = "run" if target.task_type == FLOW else ""
        return child_of(submission, names, max_attempts=self._tools.limits.max_attempts, gate=gate)

    async def _outcome(self, state: MapState) -> Outcome | None:
        """Return how the map ends, or None while items run or wait."""
        if state.failed and self._given.fail_fast:
            async with self._database.acquire() as connection:
                row = await maps.first_failure(connection, self._tenant, self._job.id, items=self._given.count)
            if row is not None:
                fault = fault_of(row["error_category"] or Category.CANCELLED, row["error_message"] or row["status"])
                message = f"item {row['item']}: {fault.message}"
                return Failed(fault=Fault(category=fault.category, message=message, type=fault.type))
        if state.running or state.left:
            return None
        return await self._results()

    async def _results(self) -> Outcome:
        """Return the outcomes of all items, or a failure when they are too large."""
        most = self._tools.limits.max_result_bytes
        parts: list[bytes] = []
        size = _BRACKETS
        while len(parts) < self._given.count:
            async with self._database.acquire() as connection:
                rows = await maps.outcomes(connection, self._tenant, self._job.id, from_item=len(parts), limit=_PAGE)
            if not rows:
                break
            for row in rows:
                part = msgspec.json.encode(_item(row))
                size += len(part) + 1
                parts.append(part)
            if most is not None and size > most:
                message = f"the results of the map have more than {most} bytes; let the items store them elsewhere"
                return Failed(fault=Fault(category=Category.INTERNAL, message=message))
        return Completed(result=Raw(b"[" + b",".join(parts) + b"]"))

    async def _end(self, outcome: Outcome, state: MapState) -> str:
        loaded = await self._tools.reader.load(self._job.id)
        if loaded is None:
            return "stale"
        ended = state.items - state.running
        counts = MapCounts(
            items=self._given.count, running=0, waiting=0, completed=max(0, ended - state.failed), failed=state.failed
        )
        await self._tools.writer.commit(
            NewTurn(
                run_id=self._job.id,
                epoch=self._job.epoch,
                at=loaded.gate.now,
                turn=Turn(number=loaded.gate.turns, first_no=0, outcome=outcome),
                seen=loaded.gate.arrived,
                park=False,
                progress=Raw(msgspec.json.encode(counts)),
            )
        )
        return type(outcome).__name__.lower()

    async def _rests(self, news: asyncio.Event) -> bool:
        """Wait for the end of a block; return whether the map was parked instead."""
        tools = self._tools
        if not tools.crowded() and await set_within(news, tools.limits.linger.total_seconds()):
            return False
        return await tools.writer.park(self._job.id, self._job.epoch)


def _items(blocks: list[NextBlock]) -> list[tuple[int, UUID, Raw]]:
    """Return the items of blocks: their indexes, new ids and inputs."""
    return [
        (index, uuid7(), value)
        for block in blocks
        for index, value in enumerate(_inputs.decode(block.inputs), block.first)
    ]


def _item(row: object) -> MapItem:
    found: dict[str, object] = dict(row)  # type: ignore[call-overload]  # a record
    completed = found["status"] == Status.COMPLETED.value
    return MapItem(
        status=Status(str(found["status"])),
        value=found["result"] if completed else None,  # type: ignore[arg-type]
        fault=None
        if completed
        else fault_of(str(found["error_category"] or Category.CANCELLED), str(found["error_message"] or "cancelled")),
    )
