"""Wake-ups between processes: hints that something changed, sent after commit, at most one every few milliseconds.

A hint may be lost (the listener was reconnecting) or come twice; whoever waits also looks by itself now and then.
NOTIFY takes a lock of the whole database at commit, so it is never part of a statement that does work.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog
from msgspec import Struct

from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import UNREACHABLE, Database

log = structlog.get_logger("penstock.wakeups")

CHANNEL = "penstock"
_LOST: tuple[type[BaseException], ...] = (DatabaseUnavailable, *UNREACHABLE)
_MOST_BYTES = 7900  # PostgreSQL refuses payloads of 8000 bytes
_MOST_FINISHED = 150


class Notice(Struct, omit_defaults=True, array_like=True):
    """What may have changed."""

    sender: str = ""
    ready: list[tuple[str, str, int]] = []  # task type, model profile, how many jobs
    finished: list[UUID] = []
    cancelled: bool = False  # some running job was asked to stop
    events: bool = False  # new events of any kind
    everything: bool = False  # hints were missed: look at all of it


class Wakeups:
    """This process's end of the hints: collects what to announce, delivers what others announce.

    Callbacks run on the event loop and must not block. ``start`` does not need the database to be there.
    """

    def __init__(self, database: Database, *, pause: timedelta = timedelta(milliseconds=5)) -> None:
        self._database = database
        self._pause = pause.total_seconds()
        self._sender = secrets.token_hex(4)
        self._callbacks: list[Callable[[Notice], None]] = []
        self._ready: Counter[tuple[str, str]] = Counter()
        self._finished: list[UUID] = []
        self._cancelled = False
        self._events = False
        self._something = asyncio.Event()
        self._lost = asyncio.Event()
        self._connection: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = asyncio.Event()  # set while connected; for tests

    def subscribe(self, callback: Callable[[Notice], None]) -> None:
        """Have ``callback`` called for every notice, this process's own included."""
        self._callbacks.append(callback)

    def start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def announce(
        self,
        *,
        ready: Counter[tuple[str, str]] | None = None,
        finished: list[UUID] | None = None,
        cancelled: bool = False,
    ) -> None:
        """Tell this process at once and the others within a few milliseconds. Every announcement means new events.

        News that someone waits for goes out at once; news of events alone waits a moment for such company.
        """
        if ready:
            self._ready.update(ready)
        if finished and len(self._finished) <= _MOST_FINISHED:  # with more of them, they are not named
            self._finished += finished
        self._cancelled |= cancelled
        self._events = True
        if ready or finished or cancelled:
            self._something.set()
        elif not self._something.is_set():
            asyncio.get_running_loop().call_later(self._pause, self._something.set)
        self._deliver(
            Notice(
                ready=[(task, profile, count) for (task, profile), count in (ready or {}).items()],
                finished=finished or [],
                cancelled=cancelled,
                events=True,
            )
        )

    def _deliver(self, notice: Notice) -> None:
        for callback in self._callbacks:
            callback(notice)

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            if not self._events:  # it went out with other news
                continue
            payload = self._take_payload()
            try:
                if self._connection is not None:
                    await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            except UNREACHABLE:
                self._lost.set()
            except Exception:  # the loop outlives what nobody foresaw; a hint may be lost
                log.exception("wakeup_not_sent")
                self._lost.set()
            await asyncio.sleep(self._pause)

    def _take_payload(self) -> str:
        ready, finished = self._ready, self._finished
        cancelled, events = self._cancelled, self._events
        self._ready, self._finished, self._cancelled, self._events = Counter(), [], False, False
        notice = Notice(
            sender=self._sender,
            ready=[(task, profile, count) for (task, profile), count in ready.items()],
            finished=finished if len(finished) <= _MOST_FINISHED else [],
            cancelled=cancelled,
            events=events,
            everything=len(finished) > _MOST_FINISHED,
        )
        payload = msgspec.json.encode(notice).decode()
        if len(payload.encode()) > _MOST_BYTES:
            payload = msgspec.json.encode(Notice(sender=self._sender, everything=True)).decode()
        return payload

    async def _listen(self) -> None:
        pause = 0.1
        while True:
            try:
                connection = await self._listening_connection()
            except Exception as error:  # noqa: BLE001 - as in sending
                if not isinstance(error, _LOST):
                    log.warning("wakeups_not_heard", reason=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            pause = 0.1
            self._connection = connection
            self.listening.set()
            self._deliver(Notice(everything=True))
            await self._lost.wait()
            self.listening.clear()
            self._connection = None
            connection.terminate()
            log.warning("wakeups_lost")

    async def _listening_connection(self) -> asyncpg.Connection:
        """A connection that listens; none is left behind when that fails or is given up."""
        connection = await self._database.connect()
        try:
            connection.add_termination_listener(lambda _connection: self._lost.set())
            self._lost.clear()
            await connection.add_listener(CHANNEL, self._receive)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _receive(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            notice = msgspec.json.decode(str(payload), type=Notice)
        except msgspec.MsgspecError:
            notice = Notice(everything=True)  # another version's wording: better to look than to miss
        if notice.sender != self._sender:
            self._deliver(notice)
