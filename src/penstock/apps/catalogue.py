"""The apps that workers have, in the database: typed functions for ``catalogue.sql``.

Every function takes the connection first; none opens a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from penstock.apps.manifest import FILE_NAME, AppManifest
from penstock.postgres import queries

ALIVE: Final = timedelta(seconds=30)  # since a worker has last shown that it has an app

Connection = asyncpg.Connection

_sql = queries.load(__file__, "catalogue.sql")


class AppProblem(Struct, frozen=True, kw_only=True):
    """One mistake in a file of an app."""

    file: str  # below the folder of apps
    key: str = ""  # of a manifest
    detail: str


_manifest: Final = msgspec.json.Decoder(AppManifest)
_problems: Final = msgspec.json.Decoder(list[AppProblem])


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An app as a worker has published it. Without a manifest it has never been valid there."""

    name: str
    version: str
    manifest: AppManifest | None
    problems: Sequence[AppProblem] = ()
    alive: bool = True  # whether a worker has it now


async def publish(connection: Connection, apps: Sequence[Published]) -> None:
    """Store the apps that a worker has, and record that it is alive."""
    await _sql.publish.run(
        connection,
        names=[app.name for app in apps],
        versions=[app.version for app in apps],
        manifests=[None if app.manifest is None else msgspec.json.encode(app.manifest) for app in apps],
        problems=[msgspec.json.encode(list(app.problems)) for app in apps],
    )


async def forget_broken(connection: Connection, names: Sequence[str]) -> None:
    """Remove the mistakes of apps that are valid now for the first time.

    Outside the transaction of ``publish``: a transaction that locks rows twice can deadlock with another worker's.
    """
    await _sql.forget_broken.run(connection, names=names)


async def forget_old(connection: Connection, after: timedelta) -> None:
    """Remove apps that no worker has had for this time."""
    await _sql.forget_old.run(connection, days=after.days)


async def find(connection: Connection, name: str) -> Published | None:
    """Return an app: of the versions that workers have now, the one that was published last. None if there is none."""
    row = await _sql.find.row(connection, name=name, alive_seconds=ALIVE.total_seconds())
    return None if row is None else _published(row)


async def every(connection: Connection) -> list[Published]:
    """Return all apps, by name."""
    return [_published(row) for row in await _sql.list.rows(connection, alive_seconds=ALIVE.total_seconds())]


def _published(row: asyncpg.Record) -> Published:
    problems = _problems.decode(row["problems"])
    try:
        manifest = None if row["manifest"] is None else _manifest.decode(row["manifest"])
    except msgspec.ValidationError as error:
        problem = AppProblem(file=FILE_NAME, detail=f"was published by another version of Penstock: {error}")
        manifest, problems = None, [*problems, problem]
    return Published(name=row["name"], version=row["version"], manifest=manifest, problems=problems, alive=row["alive"])
