"""The schema that this code needs, and the one that a database has."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import asyncpg

SCHEMA: Final = "penstock"
VERSIONS: Final = Path(__file__).with_name("migrations") / "versions"


@cache
def versions() -> tuple[str, ...]:
    """Return the names of all migrations of this code, oldest first."""
    return tuple(sorted(path.stem for path in VERSIONS.glob("[0-9]*.py")))


async def version(connection: asyncpg.Connection[Any]) -> str | None:
    """Return the newest migration that was applied to the database; None if it has no Penstock schema."""
    try:
        found: str | None = await connection.fetchval(f"SELECT max(version_num) FROM {SCHEMA}.alembic_version")  # noqa: S608
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return found


def is_newer(found: str | None) -> bool:
    """Return whether a later version of Penstock has migrated the database."""
    return found is not None and found not in versions()


def problem(found: str | None) -> str | None:
    """Return what is wrong with a schema of that version and what to do about it; None if it is this code's."""
    if found == versions()[-1]:
        return None
    if found is None:
        return "The database has no Penstock schema yet. Run `penstock db migrate`, or set MIGRATE_ON_START=true."
    if is_newer(found):
        return (
            f"The database schema ({found}) is newer than this Penstock (up to {versions()[-1]}). Upgrade Penstock; "
            "`penstock db migrate` only goes forward."
        )
    return (
        f"The database schema ({found}) is older than this Penstock ({versions()[-1]}). Run `penstock db migrate`, or "
        "set MIGRATE_ON_START=true."
    )
