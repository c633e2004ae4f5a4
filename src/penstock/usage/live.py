"""The usage of this process's live calls: summed up in memory, spooled to a file, flushed to the ledger each second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from penstock.errors import DatabaseUnavailable, Overloaded
from penstock.postgres.pool import Database
from penstock.processes.waiting import set_within
from penstock.telemetry import logs, metrics
from penstock.tenants.principal import Principal
from penstock.usage.calls import Amounts, Dims, Sums, bounded
from penstock.usage.duties import REPLAY_LIMIT
from penstock.usage.prices import UNPRICED, Measured, PriceList
from penstock.usage.spool import FIRST_BYTES, SpoolFile, SpoolFull, abandoned
from penstock.usage.sql import live as ledger
from penstock.usage.sql.live import Submitter

log = logs.get(__name__)

_UNFLUSHED = metrics.gauge("penstock_usage_unflushed_calls", "Live calls whose usage is not in the database yet.")
_SPOOL = metrics.gauge("penstock_usage_spool_bytes", "Bytes of the files that hold unflushed usage.")
_FLUSHES = metrics.counter("penstock_usage_flushes", "Flushes of live usage, by outcome.", ["outcome"])
_UNSPOOLED = metrics.counter("penstock_usage_unspooled_calls", "Live calls that were kept in memory only.")

_BYTES_PER_ROW: Final = 512  # of memory, at least, for the bound where there is no spool
_MAX_SUBMITTERS: Final = 50_000  # ids that one process remembers
_REPLAY_SECONDS: Final = 60.0  # between searches for files of processes that have ended
_LONGEST_PAUSE: Final = 5.0  # seconds between tries while the database is unavailable


class _Segment:
    """The calls of one flush: in memory, and in a file where there is a spool."""

    def __init__(self, number: int, file: SpoolFile | None) -> None:
        self.number = number
        self.file = file
        self.sums = Sums()  # times are monotonic


class LiveUsage:
    """Accounts live calls, each exactly once.

    A call is in the spool before its caller gets the response. ``interval`` is the time from the first call of a flush
    to the flush. While the database is unavailable, calls are summed up by their dimensions; once that needs
    ``max_bytes``, ``require_room`` refuses further calls, so that nothing is lost. ``folder`` is that of the spool; if
    it is None, calls are kept in memory only.
    """

    def __init__(
        self,
        database: Database,
        *,
        prices: PriceList | None = None,
        folder: Path | None = None,
        max_bytes: int = 64 * 2**20,
        interval: timedelta = timedelta(milliseconds=500),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self.prices = prices or PriceList()
        self._folder = folder
        self._max_bytes = max(max_bytes // 2, FIRST_BYTES)  # of one file: one is filled while another is flushed
        self._interval = interval.total_seconds()
        self._wall = wall
        self._ahead = 0.0  # seconds by which the database's clock is ahead of this machine's
        self.source: UUID = uuid4()
        self._active = _Segment(1, None)
        self._flushing: _Segment | None = None
        self._full = False
        self._submitters: dict[Submitter, int] = {}
        self._some = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    async def start(self) -> None:
        """Begin to flush; the database may be away."""
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._active.file = SpoolFile(self._folder, self.source, self._active.number)
            except OSError as error:
                log.warning("usage_not_spooled", folder=str(self._folder), reason=str(error))
                self._folder = None
        self._tasks = [asyncio.create_task(self._flush_always()), asyncio.create_task(self._replay_always())]

    async def stop(self) -> None:
        """Flush the remaining calls, for at most two seconds if the database is unavailable; the rest stay spooled."""
        self._stopping.set()
        self._some.set()
        if self._tasks:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 2 + self._interval)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for segment in (self._flushing, self._active):
            if segment is None:
                continue
            if segment.sums.calls and segment.file is None:
                log.error(
                    "usage_lost", calls=segment.sums.calls, reason="the database is unavailable, and there is no spool"
                )
            if segment.file is not None:
                if segment.sums.calls:
                    segment.file.close()
                else:
                    segment.file.remove()

    # Calls

    def require_room(self) -> None:
        """Raise Overloaded if the usage of another call could not be kept."""
        if self._full:
            raise Overloaded("usage cannot be recorded: the database has been away for too long and the spool is full")

    def record(
        self,
        principal: Principal,
        *,
        model: str,
        version: str,
        failed: bool,
        measured: Measured,
        bytes_in: int,
        bytes_out: int,
        sessions: int = 0,
        provider: str = "",
        app: str = "",
    ) -> None:
        """Record the usage of a live call that has ended."""
        now = time.monotonic()
        ended = self._wall() + self._ahead
        measured = Measured._make(map(bounded, measured))
        charge = self.prices.charge(provider, model, self.day(ended), measured) if self.prices.prices else UNPRICED
        dims = Dims(
            principal.tenant,
            principal.key or "",
            _plain(principal.user or ""),
            provider,
            model,
            version,
            app,
            charge.price,
            int(ended // 900),
        )
        amounts = Amounts(
            1,
            int(failed),
            int(not charge.price),
            *measured[1:],  # all but ``completed``
            bounded(bytes_in),
            bounded(bytes_out),
            sessions,
            charge.cost,
        )
        active = self._active
        active.sums.add(dims, now, amounts)
        if active.file is not None:
            try:
                active.file.append(dims, self._wall(), amounts)
            except SpoolFull:
                self._compact(active)
        elif len(active.sums.rows) * _BYTES_PER_ROW > self._max_bytes:
            self._full = True
        self._some.set()

    def day(self, moment: float | None = None) -> date:
        """Return the day, in UTC, of a moment or of now, by the database's clock as far as it is known."""
        return datetime.fromtimestamp(self._wall() + self._ahead if moment is None else moment, UTC).date()

    @property
    def unflushed(self) -> int:
        """Calls whose usage is not in the database yet."""
        return self._active.sums.calls + (self._flushing.sums.calls if self._flushing is not None else 0)

    def _compact(self, segment: _Segment) -> None:
        """Replace the content of a full file by its sums, which include the last call; enlarge it if they fill half.

        If they fill half of the largest file, no further calls are accepted: the rest is for those in flight.
        """
        assert segment.file is not None  # noqa: S101 - the caller has checked it
        size = segment.file.size
        reason: Exception = SpoolFull("the spool is full")
        while size <= self._max_bytes:
            try:
                segment.file.rewrite(segment.sums, size=size, shift=self._wall() - time.monotonic())
            except SpoolFull:
                pass
            except OSError as error:
                reason = error
                break
            else:
                self._full = 2 * segment.file.used > self._max_bytes
                if self._full or 2 * segment.file.used <= size:
                    return
            size *= 2
        self._full = True
        _UNSPOOLED.inc()
        log.error("usage_not_spooled", calls=segment.sums.calls, reason=str(reason), action="new calls are refused")

    # Flushing

    async def _flush_always(self) -> None:
        while not (self._stopping.is_set() and not self._active.sums.calls):
            await self._some.wait()
            await set_within(self._stopping, self._interval)
            self._some.clear()
            if self._active.sums.calls:
                self._rotate()
                await self._flush_until_written()
            elif self._stopping.is_set():
                return

    def _rotate(self) -> None:
        self._flushing, number = self._active, self._active.number + 1
        file = None
        if self._folder is not None:
            try:
                file = SpoolFile(self._folder, self.source, number)
            except OSError as error:
                log.error("usage_not_spooled", reason=str(error))
        self._active = _Segment(number, file)

    async def _flush_until_written(self) -> None:
        segment, pause, away = self._flushing, 0.0, False
        assert segment is not None  # noqa: S101 - the caller has rotated
        while True:
            self._show()
            try:
                await self._write(self.source, segment.number, segment.sums, now=time.monotonic)
            except Exception as error:  # noqa: BLE001 - whatever it was, the calls are kept, and sent again by their number
                _FLUSHES.labels("failed").inc()
                if not away:
                    log.warning("usage_not_flushed", calls=segment.sums.calls, reason=str(error))
                away = True
                pause = min(max(2 * pause, 0.1), _LONGEST_PAUSE)
                await set_within(self._stopping, pause)
                if self._stopping.is_set():
                    await asyncio.sleep(pause)  # until ``stop`` cancels
            else:
                break
        if away:
            log.info("usage_flushed_again", calls=segment.sums.calls)
        _FLUSHES.labels("written").inc()
        if segment.file is not None:
            segment.file.remove()
        self._flushing = None
        self._full = False
        self._show()

    async def _write(self, source: UUID, number: int, sums: Sums, *, now: Callable[[], float]) -> bool:
        """Write a flush; return False if it was written before. ``now`` is the clock of the times in ``sums``."""
        async with self._database.acquire() as connection:
            await self._resolve(connection, sums)
            moment = now()
            rows = [(dims, max(moment - ended, 0.0), amounts) for dims, (ended, amounts) in sums.rows.items()]
            written, database_time = await ledger.flush(connection, source, number, rows, self._submitters)
        self._ahead = database_time - self._wall()
        return written

    async def _resolve(self, connection: ledger.Connection, sums: Sums) -> None:
        if len(self._submitters) > _MAX_SUBMITTERS:
            self._submitters.clear()
        wanted = {(dims.tenant, dims.key_id, dims.user_id) for dims in sums.rows} - self._submitters.keys()
        if wanted:
            self._submitters |= await ledger.resolve_submitters(connection, list(wanted))

    def _show(self) -> None:
        _UNFLUSHED.set(self.unflushed)
        files = [segment.file for segment in (self._active, self._flushing) if segment is not None]
        _SPOOL.set(sum(file.size for file in files if file is not None))

    # Files of processes that have ended

    async def _replay_always(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.store_prices()
                await self.replay()
            except DatabaseUnavailable:
                await set_within(self._stopping, _LONGEST_PAUSE)
                continue
            except Exception:  # one file that cannot be read must not end the search
                log.exception("usage_not_replayed")
            await set_within(self._stopping, _REPLAY_SECONDS)

    async def store_prices(self) -> None:
        """Store the content of the prices by their ids. Raises DatabaseUnavailable."""
        if self.prices.prices:
            async with self._database.acquire() as connection:
                await ledger.store_prices(connection, self.prices.prices)

    async def replay(self) -> int:
        """Flush the files of processes that have ended; return how many. Raises DatabaseUnavailable."""
        replayed = 0
        if self._folder is None:
            return replayed
        for file in abandoned(self._folder):
            try:
                sums = file.read()
            except ValueError as error:
                log.error("usage_file_damaged", file=str(file.path), reason=str(error))
                file.set_aside()
                continue
            ended = [moment for moment, _ in sums.rows.values()]
            if ended and self._wall() - max(ended) > REPLAY_LIMIT.total_seconds():
                log.error("usage_file_too_old", file=str(file.path), calls=sums.calls)
                file.set_aside()
                continue
            if sums.calls:
                written = await self._write(file.source, file.number, sums, now=self._wall)
                log.info("usage_replayed", calls=sums.calls, written=written)
            file.remove()
            replayed += 1
        return replayed


def _plain(user: str) -> str:
    """Return the name of a user as PostgreSQL can store it."""
    if not user or (user.isascii() and user.isprintable()):
        return user
    return user.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
