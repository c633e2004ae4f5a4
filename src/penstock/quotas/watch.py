"""Keep the quotas in a gateway's memory up to date."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from penstock.access import store as access_store
from penstock.access.key_watch import TOPIC
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.processes.periodic import Periodic
from penstock.quotas import store
from penstock.quotas.rules import Rules

_INTERVAL: Final = timedelta(milliseconds=500)
_IDLE_INTERVAL: Final = timedelta(seconds=30)


class QuotaWatch(Periodic):
    """Reads the quotas of tenants that have changed, after each wake-up.

    The watch of keys, which reads every two seconds whether anything has changed, wakes it when a wake-up was lost.
    """

    def __init__(self, database: Database, rules: Rules, wakeups: Wakeups) -> None:
        super().__init__(interval=_INTERVAL, idle_interval=_IDLE_INTERVAL)
        self._database = database
        self._rules = rules
        self._generation: int | None = None  # the last change that ``rules`` includes
        wakeups.subscribe(TOPIC, lambda _keys: self.wake())

    async def once(self) -> bool:
        async with self._database.acquire() as connection:
            generation = (await access_store.state(connection)).generation  # read first: the rules below may be newer
            if self._generation is None or generation < self._generation:  # the database was replaced
                self._rules.replace_all(await store.rules(connection))
            elif generation > self._generation:
                changed = await store.changed_tenants(connection, self._generation)
                self._rules.replace(changed, await store.rules_of(connection, changed))
            self._generation = generation
        return False
