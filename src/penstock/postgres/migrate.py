"""Migrate the database to this code's schema; several processes may safely do so at once.

Migrations only go forward. Each is named after its file, ``NNNN_words``, and the last in order is the newest.
Alembic and SQLAlchemy take a quarter of a second to import, so they are imported only when there is work.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog

from penstock.errors import CannotStart, DatabaseUnavailable
from penstock.postgres import schema
from penstock.postgres.embedded import DATABASE
from penstock.postgres.pool import UNREACHABLE
from penstock.postgres.schema import SCHEMA, VERSIONS, versions

if TYPE_CHECKING:
    from sqlalchemy import Connection

_FOLDER: Final = VERSIONS.parent
_OLDEST_SERVER: Final = 15
_ADVISORY_LOCK: Final = 0x70656E73746F636B  # "penstock": one migration at a time on a database

log = structlog.get_logger(__name__)


async def migrate(url: str, *, timeout: timedelta = timedelta(0)) -> None:
    """Bring the database at ``url`` up to date; returns at once if it is already.

    Retries for ``timeout`` while the database cannot be reached, then raises DatabaseUnavailable. Raises CannotStart
    when the schema is newer than this code, the server is too old, or it refuses the connection.
    """
    connection = await _connect(url, timeout)
    try:
        if await is_current(connection):
            return
        await connection.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK)
        if await is_current(connection):  # another process has migrated it meanwhile
            return
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        before = await schema.version(connection)
        await _upgrade(connection)
        log.info("schema_migrated", before=before, after=versions()[-1])
    except asyncpg.InsufficientPrivilegeError as error:
        raise CannotStart(f"The database user may not change the schema: {error}") from error
    except UNREACHABLE as error:
        raise DatabaseUnavailable from error
    finally:
        await connection.close(timeout=5)  # closing also releases the advisory lock


def import_tools() -> None:
    """Import what migrations need, which takes a while. Call it when migrations are due and there is time to spare."""
    import alembic.command  # noqa: PLC0415
    import alembic.config  # noqa: F401, PLC0415
    import sqlalchemy.ext.asyncio  # noqa: F401, PLC0415


async def check(url: str, *, timeout: timedelta = timedelta(0)) -> None:
    """Raise CannotStart unless the schema is up to date; for processes that may not migrate."""
    connection = await _connect(url, timeout)
    try:
        problem = schema.problem(await schema.version(connection))
    finally:
        await connection.close(timeout=5)
    if problem is not None:
        raise CannotStart(problem)


async def is_current(connection: asyncpg.Connection[Any]) -> bool:
    """Return whether the schema is exactly this code's; raises CannotStart when it is newer."""
    version = await schema.version(connection)
    problem = schema.problem(version)
    if problem is not None and schema.is_newer(version):
        raise CannotStart(problem)
    return problem is None


async def _connect(url: str, timeout: timedelta) -> asyncpg.Connection[Any]:
    connection = await _reach(url, timeout)
    if connection.get_server_version().major < _OLDEST_SERVER:
        await connection.close(timeout=5)
        raise CannotStart(f"DATABASE_URL: Penstock needs PostgreSQL {_OLDEST_SERVER} or later.")
    return connection


async def _reach(url: str, timeout: timedelta) -> asyncpg.Connection[Any]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout.total_seconds()
    delay = 0.05
    logged = False
    settings = {"application_name": "penstock-migrate", "search_path": SCHEMA, "statement_timeout": "0"}
    while True:
        try:
            return await asyncpg.connect(url, timeout=5, server_settings=settings)
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.ClientConfigurationError) as error:
            raise CannotStart(f"DATABASE_URL: {error}") from error
        except UNREACHABLE as error:
            if isinstance(error, asyncpg.InvalidCatalogNameError) and not _is_embedded(url):
                raise CannotStart(f"DATABASE_URL: {error}") from error
            if loop.time() + delay > deadline:
                raise DatabaseUnavailable(_not_reached(url, error)) from error
            if not logged:
                log.warning("database_away", reason=_not_reached(url, error), waiting_seconds=timeout.total_seconds())
                logged = True
        await asyncio.sleep(delay)
        delay = min(delay * 2, 2.0)


def _not_reached(url: str, error: BaseException) -> str:
    folder = _socket_folder(url)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if folder is not None:
        return (
            f"The database in {folder} cannot be reached: {reason}. Set DATABASE_URL, or run `penstock serve`, which "
            "starts the embedded PostgreSQL there."
        )
    return f"The database at {urlsplit(url).netloc.rpartition('@')[2]} cannot be reached: {reason}."


def _is_embedded(url: str) -> bool:
    """Return whether this may be the embedded server's database, which it creates after it has started."""
    return _socket_folder(url) is not None and urlsplit(url).path == f"/{DATABASE}"


def _socket_folder(url: str) -> str | None:
    """Return the folder of the server's socket; None for a server over TCP."""
    folder = parse_qs(urlsplit(url).query).get("host", [""])[0]
    return folder if folder.startswith("/") else None


async def _upgrade(connection: asyncpg.Connection[Any]) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415  (slow to import, rarely needed)
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    async def ours(*_: object, **__: object) -> asyncpg.Connection[Any]:
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=ours, poolclass=NullPool)
    async with engine.connect() as adapted:
        await adapted.run_sync(_run_alembic)


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  (slow to import, rarely needed)
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
