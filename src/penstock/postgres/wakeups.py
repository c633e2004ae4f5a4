"""Wake-ups between processes: hints that something changed, sent after commit, a few at once and then one every 5 ms.

A wake-up has a topic and a payload of keys with counts: what changed, and how much of it. Any room may announce on a
topic of its own and subscribe to it; a process ignores the topics that it does not subscribe to. A wake-up may be lost
(the listener was reconnecting) or arrive twice, so every waiter also polls now and then. NOTIFY locks the whole
database at commit, so no statement that does other work contains it.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from msgspec import Struct

from penstock.errors import DatabaseUnavailable
from penstock.postgres.pool import UNREACHABLE, Database

log = structlog.get_logger("penstock.wakeups")

Keys = Mapping[str, int] | None  # None: anything in the topic may have changed
Callback = Callable[[Keys], None]

CHANNEL: Final = "penstock"
_LOST: Final[tuple[type[BaseException], ...]] = (DatabaseUnavailable, *UNREACHABLE)
_MAX_BYTES: Final = 7900  # PostgreSQL refuses payloads of 8000 bytes
_MAX_KEYS: Final = 150  # of one topic in one message; if there are more, none is named
_BURST: Final = 4  # messages sent without a pause: a job has several wake-ups, and the last must not wait for the first


class _Message(Struct, array_like=True):
    """The form in which one process announces changes to the others."""

    sender: str
    topics: dict[str, dict[str, int] | None]


class Wakeups:
    """The wake-ups of this process: collects and sends its announcements, and delivers those of others.

    Callbacks run on the event loop and must not block. ``start`` does not need the database.
    """

    def __init__(self, database: Database, *, interval: timedelta = timedelta(milliseconds=5)) -> None:
        self._database = database
        self._interval = interval.total_seconds()
        self._sender = secrets.token_hex(4)
        self._callbacks: dict[str, list[Callback]] = {}
        self._forwards: dict[str, list[Callback]] = {}
        self._pending: dict[str, Counter[str] | None] = {}
        self._due = asyncio.Event()
        self._lost = asyncio.Event()
        self._connection: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = asyncio.Event()  # set while connected; for tests

    def subscribe(self, topic: str, callback: Callback) -> None:
        """Call ``callback`` with the keys of every wake-up on a topic, including those of this process.

        After a connection was lost it is called with None, because wake-ups may have been missed.
        """
        self._callbacks.setdefault(topic, []).append(callback)

    def forward(self, topic: str, callback: Callback) -> None:
        """Call ``callback`` with the keys of every announcement that this process makes on a topic."""
        self._forwards.setdefault(topic, []).append(callback)

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

    def announce(self, topic: str, keys: Keys = None, *, urgent: bool = True, here: bool = True) -> None:
        """Wake the subscribers of this process at once, and those of others within a few milliseconds.

        Without keys, anything in the topic may have changed. An announcement that is not urgent waits a moment, to be
        sent together with others. Without ``here``, only other processes are woken.
        """
        self._collect(topic, keys)
        if urgent:
            self._due.set()
        elif not self._due.is_set():
            asyncio.get_running_loop().call_later(self._interval / 5, self._due.set)
        if here:
            self._deliver(topic, keys)
        for callback in self._forwards.get(topic, ()):
            callback(keys)

    def _collect(self, topic: str, keys: Keys) -> None:
        pending = self._pending.get(topic, Counter())
        if pending is None:
            return
        if keys is None or len(keys) > _MAX_KEYS:
            self._pending[topic] = None
            return
        pending.update(keys)
        self._pending[topic] = pending if len(pending) <= _MAX_KEYS else None

    def _deliver(self, topic: str, keys: Keys) -> None:
        for callback in self._callbacks.get(topic, ()):
            callback(keys)

    async def _send(self) -> None:
        """Send what was collected: one message each interval, with bursts after a quiet time."""
        allowed_at = -math.inf  # loop time at which the next message would be due without bursts
        clock = asyncio.get_running_loop().time
        while True:
            await self._due.wait()
            self._due.clear()
            if not self._pending:  # it went out with other announcements
                continue
            payload = self._take_payload()
            try:
                if self._connection is not None:
                    await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
            except UNREACHABLE:
                self._lost.set()
            except Exception:  # the loop outlives an unforeseen error; a hint may be lost
                log.exception("wakeup_not_sent")
                self._lost.set()
            now = clock()
            allowed_at = max(allowed_at, now - _BURST * self._interval) + self._interval
            if allowed_at > now:
                await asyncio.sleep(allowed_at - now)

    def _take_payload(self) -> str:
        """Return all announcements since the last call; topics lose their keys, the largest first, until it fits."""
        pending, self._pending = self._pending, {}
        topics = {topic: None if keys is None else dict(keys) for topic, keys in pending.items()}
        while True:
            payload = msgspec.json.encode(_Message(sender=self._sender, topics=topics))
            named = {topic: len(msgspec.json.encode(keys)) for topic, keys in topics.items() if keys}
            if len(payload) <= _MAX_BYTES or not named:
                return payload.decode()
            topics[max(named, key=named.__getitem__)] = None

    async def _listen(self) -> None:
        delay = 0.1
        while True:
            try:
                connection = await self._listening_connection()
            except Exception as error:  # noqa: BLE001 - as in _send
                if not isinstance(error, _LOST):
                    log.warning("wakeups_not_heard", reason=str(error) or type(error).__name__)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
                continue
            delay = 0.1
            self._connection = connection
            self.listening.set()
            self._deliver_everything()
            await self._lost.wait()
            self.listening.clear()
            self._connection = None
            connection.terminate()
            log.warning("wakeups_lost")

    async def _listening_connection(self) -> asyncpg.Connection:
        """Return a listening connection; none is left open when this fails or is cancelled."""
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
            message = msgspec.json.decode(str(payload), type=_Message)
        except msgspec.MsgspecError:  # sent by another version, in a format that this one does not know
            self._deliver_everything()
            return
        if message.sender != self._sender:
            for topic, keys in message.topics.items():
                self._deliver(topic, keys)

    def _deliver_everything(self) -> None:
        """Wake every subscriber without keys, because wake-ups may have been missed."""
        for topic in self._callbacks:
            self._deliver(topic, None)
