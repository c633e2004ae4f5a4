"""Connections to PostgreSQL: one pool per process, JSON passed through as raw bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import cast

import asyncpg
import structlog
from msgspec import Raw

from penstock.errors import DatabaseUnavailable, SchemaMismatch
from penstock.postgres import schema, tls

log = structlog.get_logger("penstock.postgres")

# Errors of a server that is lost or refuses work: the request itself is valid and may be retried later.
UNREACHABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,  # the connection was lost in the middle of a response
    asyncpg.InterfaceError,  # "connection is closed", "connection was closed in the middle of operation"
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,  # starting up, shutting down, in recovery
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, a full disk
    asyncpg.ReadOnlySQLTransactionError,  # no longer the primary
    asyncpg.InvalidAuthorizationSpecificationError,  # a mistake at start; later, a change of passwords
    asyncpg.InvalidCatalogNameError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

_SCHEMA_SECONDS = 5.0  # how long a schema that was found to match is assumed to match

# Statistics of queue tables are always stale: a table that was empty when analysed may hold a million rows a minute
# later. So the form of the statements (LATERAL, ctid) determines how large tables are accessed, and these settings keep
# the planner from other plans. Plans are made once, because planning over partitions takes milliseconds.
_SESSION = {
    "search_path": "penstock",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_material": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}


def _encode_json(value: Raw | bytes) -> bytes:
    return bytes(value)


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("json", schema="pg_catalog", encoder=_encode_json, decoder=Raw, format="binary")


async def _try_to_write(connection: asyncpg.Connection) -> None:
    """Write a few pages to a new file of the database and roll back; raises DiskFullError.

    The file is new because an existing one may have free space while the disk has none. For a role without the
    privilege to do this, the check passes.
    """
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute("SET LOCAL lock_timeout = '1s'; TRUNCATE write_probe")
        await connection.execute("INSERT INTO write_probe SELECT repeat('x', 1000) FROM generate_series(1, 64)")
    except asyncpg.InsufficientPrivilegeError:
        pass
    except asyncpg.LockNotAvailableError as error:  # another process is running the same check
        raise DatabaseUnavailable("The database has no space left on its disk.") from error
    finally:
        await attempt.rollback()


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Skip the reset of the session: no statement changes its state, so it would be a wasted round trip."""


class Database:
    """A pool of connections that survives restarts of the server: it reconnects itself, and raises while it cannot."""

    def __init__(self, url: str, *, application_name: str, max_size: int = 8) -> None:
        self.url = url
        self.application_name = application_name
        self._max_size = max_size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._check_schema_at = 0.0  # monotonic; not before then
        self._disk_full = False  # a write failed for lack of space; cleared when a trial write succeeds

    async def open(self, *, timeout: timedelta = timedelta(0)) -> None:
        """Connect, retrying for ``timeout``; raises DatabaseUnavailable after that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        delay = 0.05
        while True:
            try:
                await self._connected_pool()
                return
            except DatabaseUnavailable:
                if loop.time() + delay > deadline:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def close(self) -> None:
        """Close every connection; statements in flight get a few seconds to finish."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), 5)
        except UNREACHABLE:
            pool.terminate()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection for a few statements.

        Raises DatabaseUnavailable when the server is lost or cannot write, and SchemaMismatch while its schema differs
        from this code's.
        """
        pool = await self._connected_pool()
        async with self._known_errors(), pool.acquire(timeout=5) as proxy:
            connection = cast("asyncpg.Connection", proxy)  # it behaves as one
            if time.monotonic() >= self._check_schema_at:
                await self._check_schema(connection)
            yield connection

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a new connection outside the pool, for a statement that takes long. Raises as ``acquire`` does, except
        that the schema is not checked."""
        connection = await self.connect()
        async with self._known_errors():
            try:
                yield connection
            finally:
                await connection.close(timeout=5)

    @asynccontextmanager
    async def _known_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except asyncpg.DiskFullError as error:
            self._disk_full = True
            raise DatabaseUnavailable("The database has no space left on its disk.") from error
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise DatabaseUnavailable("The database does not accept writes: it is read-only.") from error
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless the server responds within 2 s and accepts writes.

        Whether it is read-only is read from a setting. Once a write has found the disk full, a write is tried here as
        well, until one succeeds.
        """
        self._check_schema_at = 0.0
        try:
            async with asyncio.timeout(2), self.acquire() as connection:
                if await connection.fetchval("SELECT current_setting('transaction_read_only')::bool"):
                    raise asyncpg.ReadOnlySQLTransactionError
                if self._disk_full:
                    await _try_to_write(connection)
                    self._disk_full = False
        except TimeoutError as error:
            raise DatabaseUnavailable from error

    async def _check_schema(self, connection: asyncpg.Connection) -> None:
        """Raise SchemaMismatch unless the schema is this code's; a match is remembered for a while."""
        problem = schema.problem(await schema.version(connection))
        if problem is not None:
            raise SchemaMismatch(problem)
        self._check_schema_at = time.monotonic() + _SCHEMA_SECONDS

    async def connect(self) -> asyncpg.Connection:
        """Open a connection outside the pool, which the caller closes."""
        try:
            return await asyncpg.connect(
                self.url,
                timeout=5,
                command_timeout=25,
                server_settings={**_SESSION, "application_name": self.application_name, "synchronous_commit": "off"},
            )
        except UNREACHABLE as error:
            raise self._unavailable(error) from error

    async def _connected_pool(self) -> asyncpg.Pool:
        if self._pool is not None:
            return self._pool
        async with self._opening:
            if self._pool is None:
                try:
                    pool = await asyncpg.create_pool(
                        self.url,
                        min_size=0,  # a pool with a minimum size logs a traceback whenever it cannot connect
                        max_size=self._max_size,
                        max_inactive_connection_lifetime=0,
                        timeout=5,
                        command_timeout=25,
                        init=_prepare,
                        reset=_keep_session,
                        server_settings={**_SESSION, "application_name": self.application_name},
                    )
                    async with pool.acquire():  # connects
                        self._pool = pool
                except UNREACHABLE as error:
                    raise self._unavailable(error) from error
            return self._pool

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        reason = tls.reason_of(error, self.url)
        return DatabaseUnavailable() if reason is None else DatabaseUnavailable(reason)
