"""The flows of some folders and the process that runs them, as the runner uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from penstock.flows.kernel.records import FlowDescription, History, Mail, Turn
from penstock.flows.kernel.replay import Replayed
from penstock.flows.process.environment import variables
from penstock.flows.process.errors import FlowsUnavailable, NotResident, ProgramLost
from penstock.flows.process.program import Limits, Program
from penstock.flows.program.folders import FlowFolders
from penstock.flows.program.frames import Begin, Deliver
from penstock.models.host.guardian import Guardian
from penstock.processes.backoff import Backoff
from penstock.processes.waiting import set_within
from penstock.processes.watching import watch
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_RETIRING: Final = 4  # processes of earlier code that still have resident runs
_START_SECONDS: Final = 60.0  # for which a request waits for a process to start


class FlowProcess:
    """Runs flow code in a process of its own, and starts another one when that ends or when its files change.

    A **resident** run is in the memory of the process, after ``begin``. For one run at most one of ``begin`` and
    ``deliver`` may be in progress at a time. A turn counts only when it is stored: if that fails, call ``evict`` and
    begin again later. A run is no longer resident after a turn with an outcome, and after any error; ``resident``
    shows which runs are. Runs of earlier code stay in their process until they have ended or are evicted. A file that
    can no longer be loaded keeps the code that it had, as long as its process lives.
    """

    def __init__(
        self,
        folders: FlowFolders,
        *,
        ours: Mapping[str, str],
        private: frozenset[str],
        watched: bool = False,
        limits: Limits | None = None,
        defaults: Callable[[], Mapping[str, Mapping[str, str]]] | None = None,
    ) -> None:
        """``ours`` is the environment of this process; variables in ``private`` are not passed on. With ``watched`` the
        code is loaded again when files change. ``defaults`` returns variables for the code of each app that ``ours``
        lacks, by the name of the app's folder; it is called in a thread, before each start."""
        self.flows: Mapping[tuple[str, str], FlowDescription] = {}  # by name and version
        self.problems: Mapping[str, str] = {}  # by file: why it cannot be used
        self.resident: dict[UUID, Program] = {}
        self.folders = folders
        self._watches = watched
        self._environment = variables(ours, private)
        self._limits = limits or Limits()
        self._defaults = defaults
        self._guardian = Guardian()
        self._current: Program | None = None
        self._homes: dict[
            tuple[str, str], Program
        ] = {}  # of flows: the process with the last code of each that could be loaded
        self._changed: list[Callable[[], None]] = []
        self._retiring: list[Program] = []
        self._available = asyncio.Event()  # there is a current process
        self._tried = asyncio.Event()  # the first start has succeeded or failed
        self._reload = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The id of the process that runs begin in; None while there is none."""
        return None if self._current is None else self._current.pid

    async def start(self) -> None:
        """Start the process and wait until it has loaded the files, or has failed to."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
            if self._watches:
                for root in self.folders.roots:
                    self._keep(watch(root, self._files_changed, self._stopping))
        await self._tried.wait()

    async def stop(self) -> None:
        """End the process. Requests in progress get ProgramLost. Idempotent; safe if never started."""
        self._stopping.set()
        self._reload.set()
        if self._running is not None:
            await self._running
        programs = [*self._retiring, *([self._current] if self._current is not None else [])]
        self._current = None
        await asyncio.gather(*(program.stop() for program in programs), *self._tasks)
        await self._guardian.stop()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``flows`` or ``problems`` have changed."""
        self._changed.append(callback)

    def reload(self) -> None:
        """Start a new process for runs that begin from now on, because files have changed."""
        self._reload.set()

    async def begin(self, history: History, mail: Sequence[Mail] = (), *, now: float = 0.0) -> Turn:
        """Replay a run and consume the mail, with the present code. A run without turns starts.

        If its code ends or differs, the turn's outcome is that or ``Held``. Without mail, a run that has turns makes
        an empty turn, which is not stored. ``now`` is the time by the clock of the database. Raises NoTurn:
        UnknownFlow, HistoryTooLarge, FlowsUnavailable, or ProgramLost.
        """
        self.evict(history.run_id)
        program = await self._available_program((history.flow, history.version))
        return await self._request(history.run_id, program, lambda number: Begin(number, history, list(mail), now))

    async def deliver(self, run_id: UUID, mail: Sequence[Mail], *, now: float = 0.0) -> Turn:
        """Consume more mail in a resident run. Raises NoTurn: NotResident or ProgramLost."""
        program = self.resident.get(run_id)
        if program is None:
            raise NotResident(f"run {run_id} is not resident")
        return await self._request(run_id, program, lambda number: Deliver(number, run_id, list(mail), now))

    async def check(self, history: History, *, ended: bool = False) -> Replayed:
        """Replay a history with the present code, wholly and from its beginnings; ``ended`` if the run ended with its
        last turn. Nothing is executed or stored. To try another version, replace that of the history. Raises NoTurn."""
        program = await self._available_program((history.flow, history.version))
        return await program.check(history, ended=ended)

    def evict(self, run_id: UUID) -> None:
        """Forget a resident run, because it is parked or because its turn was not stored."""
        program = self.resident.pop(run_id, None)
        if program is not None:
            program.evict(run_id)
            self._retire_unused()

    async def _request(self, run_id: UUID, program: Program, make: Callable[[int], Begin | Deliver]) -> Turn:
        self.resident[run_id] = program
        try:
            turn = await program.turn(run_id, make)
        except BaseException:
            if self.resident.get(run_id) is program:
                self.evict(run_id)
            raise
        if turn.last.outcome is not None and self.resident.get(run_id) is program:
            del self.resident[run_id]  # the process has forgotten it
            self._retire_unused()
        return turn

    async def _available_program(self, flow: tuple[str, str]) -> Program:
        if (program := self._program_of(flow)) is not None:
            return program
        try:
            async with asyncio.timeout(_START_SECONDS):
                while True:
                    await self._available.wait()
                    if (program := self._program_of(flow)) is not None:
                        return program
                    self._available.clear()  # until another one has started
        except TimeoutError:
            raise FlowsUnavailable("the process that runs flows cannot be started; see its log") from None

    def _program_of(self, flow: tuple[str, str]) -> Program | None:
        """Return the process that has a flow; None if none runs."""
        if not self._available.is_set() or self._current is None or self._current.ended.is_set():
            return None
        home = self._homes.get(flow, self._current)
        return self._current if home.ended.is_set() else home

    # The process, and those that follow it

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._reload.clear()
            began = asyncio.get_running_loop().time()
            program = await self._start_program()
            if program is not None:
                self._adopt(program)
            self._tried.set()
            await self._until_over(program)
            if self._stopping.is_set():
                return
            if program is None or program.ended.is_set():
                if program is not None:
                    self._forget(program)
                if self._current is None:  # if a new process cannot be started, the one before stays in use
                    self._available.clear()
                delay = backoff.after_run_of(asyncio.get_running_loop().time() - began)
                await set_within(self._reload, delay)

    async def _start_program(self) -> Program | None:
        """Start a process, without the files that end or hang it. Return None if it cannot be started at all."""
        skipped: dict[str, str] = {}
        while not self._stopping.is_set():
            defaults = {} if self._defaults is None else await asyncio.to_thread(self._defaults)
            program = Program(self.folders, self._environment, self._limits, self._guardian, variables=defaults)
            try:
                await program.start(skipped)
            except ProgramLost as error:
                await program.stop()
                if program.loading is None or program.loading in skipped:
                    log.error("flows_not_started", reason=error.message)
                    return None
                skipped[program.loading] = f"it cannot be loaded: {error.message}"
                file = self.folders.label(Path(program.loading))
                log.warning("flow_file_refused", file=file, reason=error.message, stack=error.stack)
                continue
            program.problems = {**program.problems, **skipped}
            return program
        return None

    def _adopt(self, program: Program) -> None:
        before, self._current = self._current, program
        if before is not None:
            self._retiring.append(before)
        problems = {self.folders.label(Path(path)): reason for path, reason in program.problems.items()}
        for file, reason in problems.items():
            if self.problems.get(file) != reason:
                log.warning("flow_file_refused", file=file, reason=reason)
        flows = {(flow.name, flow.version): flow for flow in program.flows}
        kept = {
            key: flow
            for key, flow in self.flows.items()
            if key not in flows and key in self._homes and self._is_broken(flow, program.problems)
        }
        self._homes = {key: self._homes[key] for key in kept} | dict.fromkeys(flows, program)
        self.flows = kept | flows
        self.problems = problems
        self._retire_unused()
        log.info("flows_loaded", flows=[f"{name}@{version}" for name, version in self.flows], pid=program.pid)
        self._available.set()
        for callback in self._changed:
            callback()

    def _is_broken(self, flow: FlowDescription, problems: Mapping[str, str]) -> bool:
        """Return whether the file or package of a flow has a problem."""
        return self.folders.unit(Path(flow.file)) in {self.folders.unit(Path(path)) for path in problems}

    async def _until_over(self, program: Program | None) -> None:
        """Wait until the process has ended or is to be replaced."""
        if program is None:
            return
        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(program.ended.wait()), loop.create_task(self._reload.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if program.ended.is_set() and not self._stopping.is_set():
            log.error("flows_process_ended", how=program.how_it_ended)

    def _forget(self, program: Program) -> None:
        for run_id in [one for one, where in self.resident.items() if where is program]:
            del self.resident[run_id]
        self._homes = {key: home for key, home in self._homes.items() if home is not program}
        if self._current is program:
            self._current = None
            self._stop_later(program)

    def _retire_unused(self) -> None:
        """Stop processes of earlier code that have no runs and flows left, and the oldest of too many."""
        if not self._retiring:
            return
        used = {*self.resident.values(), *self._homes.values()}
        while self._retiring and (len(self._retiring) > _MAX_RETIRING or not used.issuperset(self._retiring)):
            unused = next((one for one in self._retiring if one not in used), self._retiring[0])
            self._retiring.remove(unused)
            self._forget(unused)
            self._stop_later(unused)

    async def _files_changed(self, changed: Collection[Path]) -> None:
        if not changed or any(self.folders.concern(path) for path in changed):
            self.reload()

    def _stop_later(self, program: Program) -> None:
        self._keep(program.stop())

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
