"""Clocks that tests move: the database's, and one for objects that take a clock."""

from __future__ import annotations

from datetime import timedelta

from penstock.postgres.pool import Database
from tests.support.databases import execute, query


class Clock:
    """The clock of one database. Moving it moves leases, due times and timestamps, for every connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ahead = timedelta(0)
        self._base = "now()"

    async def advance(self, by: timedelta) -> None:
        """Move the clock forward at once."""
        self.ahead += by
        await execute(
            self._database,
            "CREATE OR REPLACE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE"
            f" RETURN {self._base} + make_interval(secs => {self.ahead.total_seconds()})",
        )

    async def freeze(self, *, noon: bool = False) -> None:
        """Stop the clock now, or at noon of this day: from here on only ``advance`` moves it."""
        at = "date_trunc('day', now(), 'UTC') + interval '12 hours'" if noon else "now()"
        ((moment,),) = await query(self._database, f"SELECT ({at})::text")
        self._base = f"timestamptz '{moment}'"
        await self.advance(timedelta(0))

    async def reset(self) -> None:
        """Return to the real time."""
        if self.ahead or self._base != "now()":
            self._base = "now()"
            await self.advance(-self.ahead)


class StandingClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
