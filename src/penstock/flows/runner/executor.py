"""Runs one claimed run: loads it, gives its mail to its code, stores its turns, and parks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from msgspec import Raw
from msgspec.structs import replace

from penstock.errors import InvalidInput
from penstock.failures import Category
from penstock.flows.kernel.ahead import mail_of
from penstock.flows.kernel.loop import VERSION
from penstock.flows.kernel.records import (
    Completed,
    Failed,
    Fault,
    Held,
    History,
    Mail,
    MailKind,
    Status,
    Turn,
)
from penstock.flows.process.errors import FlowsUnavailable, NotResident, NoTurn, ProgramLost, UnknownFlow
from penstock.flows.runner.children import children_of
from penstock.flows.runner.mailboxes import Mailboxes
from penstock.flows.runner.reading import Loaded, RunReader
from penstock.flows.runner.writing import RunWriter
from penstock.flows.sql.store import Commit, NewTurn, Stored
from penstock.jobs.names import Names
from penstock.jobs.sql.rows import LimitedKey
from penstock.jobs.work import ClaimedJob
from penstock.processes.waiting import set_within
from penstock.telemetry import logs
from penstock.tenants.principal import logged
from penstock.work.executor import ExecutionError

log = logs.get(__name__)

_MAX_DEATHS: Final = 3  # of processes while they execute one run, without a stored turn in between
_AGAIN: Final = timedelta(seconds=1)  # until a run is claimed again whose flow has disappeared from the files


# Returns why the result of a run cannot be accepted, or None if it can.
CheckResult = Callable[[ClaimedJob, Raw], str | None]


class Process(Protocol):
    """The process that runs the code of flows, as a runner uses it."""

    async def begin(self, history: History, mail: Sequence[Mail] = (), *, now: float = 0.0) -> Turn: ...
    async def deliver(self, run_id: UUID, mail: Sequence[Mail], *, now: float = 0.0) -> Turn: ...
    def evict(self, run_id: UUID) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How long runs stay in memory, and what they may issue."""

    linger: timedelta = timedelta(milliseconds=500)  # for mail that is expected soon
    max_attempts: int = 3  # of child jobs that do not set their own
    max_result_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Everything that executions of one tenant's runs share."""

    process: Process
    reader: RunReader
    writer: RunWriter
    names: Names
    mailboxes: Mailboxes
    limits: RunLimits
    crowded: Callable[[], bool]  # whether other runs need this one's place in memory
    code: Callable[[], str]  # a hash of the code that the process has
    check_result: CheckResult | None = None


class _Died(Exception):
    """The run begins again from its history: its process has ended, or its code is ahead of what is stored."""


class _Clock:
    """The time by the clock of the database, since it was last read."""

    def __init__(self, at: float) -> None:
        self.set(at)

    def set(self, at: float) -> None:
        self._offset = at - time.monotonic()

    @property
    def now(self) -> float:
        return self._offset + time.monotonic()


class RunExecution:
    """The execution of one run under one lease."""

    def __init__(self, job: ClaimedJob, tools: Tools) -> None:
        self._job = job
        self._tools = tools
        self._seen = 0  # the id of the newest mail that stored turns have consumed
        self._need = 1
        self._limited_key: LimitedKey | None = None

    async def execute(self) -> str:
        """Run until the run ends, is parked or is held; return which. Its lease has ended then, or was lost.

        Raises ExecutionError when the run is to be claimed again.
        """
        while True:
            try:
                return await self._execute()
            except _Died:
                continue
            except UnknownFlow as error:
                raise ExecutionError(Category.SHUTDOWN, error.message, retry_after=_AGAIN) from error
            except FlowsUnavailable as error:
                raise ExecutionError(Category.SHUTDOWN, error.message, retry_after=5 * _AGAIN) from error
            except NoTurn as error:  # the history is too large, or Penstock has a bug
                return await self._hold(Held(reason="broken", message=error.message))
            except InvalidInput as error:
                return await self._hold(Held(reason="broken", message=f"a turn cannot be stored: {error}"))
            finally:
                self._tools.process.evict(self._job.id)

    async def _execute(self) -> str:
        loaded = await self._tools.reader.load(self._job.id)
        if loaded is None:
            return "stale"
        self._seen, self._need = loaded.gate.seen, loaded.gate.need
        self._limited_key = loaded.gate.limited_key
        history = _history_of(self._job, loaded)
        with self._tools.mailboxes.open(self._job.id) as news:
            clock = _Clock(loaded.gate.now)
            mail = loaded.unread
            turn = await self._turned(self._tools.process.begin(history, mail, now=clock.now))
            at = loaded.gate.now if not loaded.turns else None
            while True:
                held = turn.last.outcome if isinstance(turn.last.outcome, Held) else None
                if held is not None and turn.then is None:
                    return await self._hold(held)
                turn = turn if held is None else replace(turn, then=None)
                commit = None
                if not turn.empty:
                    commit = await self._commit(turn, mail[0].at if at is None else at)
                    at = None
                    clock.set(commit.at)
                    if (end := _end_of(turn, commit)) is not None:
                        return end
                    if held is not None:
                        return await self._hold(held)
                found = await self._next_mail(turn.last, commit, news)
                if found is None:
                    return "parked"
                mail = found
                turn = await self._turned(self._tools.process.deliver(self._job.id, mail, now=clock.now))

    async def _commit(self, turn: Turn, at: float) -> Commit:
        """Store a turn, and the one that follows it. Raises _Died if other mail comes between them."""
        tools = self._tools
        turn = self._checked(_within_limits(turn, tools.limits))
        last = turn.last
        steps = turn.steps if turn.then is None else [*turn.steps, *turn.then.steps]
        children, blocks = await children_of(steps, self._job, tools.names, max_attempts=tools.limits.max_attempts)
        seen = max([self._seen, *turn.taken, *last.taken])
        new = NewTurn(
            run_id=self._job.id,
            epoch=self._job.epoch,
            at=at,
            turn=turn,
            seen=seen,
            park=not last.recorded and (not last.linger or tools.crowded()),
            children=children,
            blocks=blocks,
            limited_key=self._limited_key,
        )
        commit = await tools.writer.commit(new)
        if commit.outcome is Stored.OVERTAKEN:
            commit = await self._commit(replace(turn, then=None), at)
            if commit.outcome is not Stored.STALE:
                raise _Died
            return commit
        self._seen, self._need = seen, max(1, last.need)
        return commit

    def _checked(self, turn: Turn) -> Turn:
        """Return the turn; a result that is not accepted becomes a failure."""
        if turn.then is not None:
            return replace(turn, then=self._checked(turn.then))
        check, outcome = self._tools.check_result, turn.outcome
        problem = check(self._job, outcome.result) if check is not None and isinstance(outcome, Completed) else None
        if problem is None:
            return turn
        return replace(turn, outcome=Failed(fault=Fault(category=Category.INTERNAL, message=problem)))

    async def _next_mail(self, turn: Turn, commit: Commit | None, news: asyncio.Event) -> list[Mail] | None:
        """Return the mail with which the code can continue; None when the run was parked instead."""
        if commit is not None and commit.outcome is Stored.COMMITTED and turn.recorded:
            first = commit.arrived - len(turn.recorded) + 1
            if first == self._seen + 1:
                return mail_of(turn, first, at=commit.at)
        tools = self._tools
        deadline = asyncio.get_running_loop().time() + tools.limits.linger.total_seconds()
        arrived = self._seen if commit is None else commit.arrived
        while True:
            if arrived > self._seen or news.is_set():
                news.clear()
                mail = await tools.reader.mail(self._job.id, self._seen)
                if self._can_go_on(mail):
                    return mail
                arrived = self._seen
            left = deadline - asyncio.get_running_loop().time()
            if left > 0 and turn.linger and not tools.crowded() and await set_within(news, left):
                continue
            if await tools.writer.park(self._job.id, self._job.epoch, self._limited_key):
                return None
            mail = await tools.reader.mail(self._job.id, self._seen)
            if mail:
                return mail
            await set_within(news, tools.limits.linger.total_seconds())  # the lease is lost; the engine notices

    def _can_go_on(self, mail: Sequence[Mail]) -> bool:
        ends = sum(one.kind is MailKind.ENDED and one.status is Status.COMPLETED for one in mail)
        return len(mail) >= self._need or ends < len(mail)

    async def _turned(self, call: Awaitable[Turn]) -> Turn:
        try:
            return await call
        except NotResident as error:  # its process has ended, or was replaced, while the run waited for mail
            raise _Died from error
        except ProgramLost as error:
            if error.on_cpu:
                deaths = await self._tools.writer.died(self._job.id, self._job.epoch)
                log.warning("flow_process_died", run_id=str(self._job.id), deaths=deaths, reason=error.message)
                if deaths >= _MAX_DEATHS:
                    message = f"its process has died {deaths} times while it ran this run: {error.message}"
                    return Turn(
                        number=0,
                        first_no=0,
                        outcome=Held(reason="broken", message=f"{message}\n{error.stack}".strip()[:10_000]),
                    )
            raise _Died from error

    async def _hold(self, held: Held) -> str:
        job = self._job
        await self._tools.writer.hold(job.id, job.epoch, held, code=self._tools.code(), limited_key=self._limited_key)
        log.error(
            "run_held",
            run_id=str(job.id),
            flow=job.model_profile,
            reason=held.reason,
            message=held.message,
            no=held.no,
            stored=held.stored,
            found=held.found,
            **logged(job.tenant),
        )
        return "held"


def _end_of(turn: Turn, commit: Commit) -> str | None:
    """Return how the execution ends after a turn; None when it continues."""
    if commit.outcome is Stored.STALE:
        return "stale"
    if turn.last.outcome is not None:
        return type(turn.last.outcome).__name__.lower()
    return "parked" if commit.parked else None


def _history_of(job: ClaimedJob, loaded: Loaded) -> History:
    name, _, version = job.model_profile.rpartition("@")
    return History(
        run_id=job.id,
        flow=name,
        version=version,
        loop=VERSION,
        input=job.input,
        started_at=loaded.gate.now if not loaded.turns else loaded.turns[0].at,
        turns=loaded.turns,
        steps=loaded.steps,
        mail=loaded.consumed,
    )


def _within_limits(turn: Turn, limits: RunLimits) -> Turn:
    """Return the turn; a result that is too large becomes a failure."""
    if turn.then is not None:
        return replace(turn, then=_within_limits(turn.then, limits))
    outcome, most = turn.outcome, limits.max_result_bytes
    if not isinstance(outcome, Completed) or most is None or memoryview(outcome.result).nbytes <= most:
        return turn
    size = memoryview(outcome.result).nbytes
    fault = Fault(category=Category.INTERNAL, message=f"the result has {size} bytes; at most {most} are allowed")
    return replace(turn, outcome=Failed(fault=fault))
