"""Models that were registered or removed over HTTP: stored in PostgreSQL, and the same for every host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.models import manifest, store
from penstock.models.manifest import Key, Model
from penstock.models.store import Row
from penstock.postgres.pool import Database
from penstock.telemetry import logs

log = logs.get(__name__)

_POLL_SECONDS: Final = 2.0  # the time until another process's registration is noticed


class Registrations:
    """This process's copy of the table. Without a database nothing can be registered."""

    def __init__(self, database: Database | None, tenant: int) -> None:
        self._database = database
        self._tenant = tenant
        self._rows: dict[Key, Row] = {}
        self._position = -1
        self._puts = 0

    def hides(self, key: Key) -> bool:
        """Return whether a model of the folder was removed at run time."""
        row = self._rows.get(key)
        return row is not None and row.removed and row.manifest is None

    def hidden(self) -> set[Key]:
        """Return all models of the folder that were removed at run time."""
        return {key for key in self._rows if self.hides(key)}

    def models(self) -> Iterator[tuple[Key, Model]]:
        """Yield the models that are registered; manifests that cannot be used are logged and left out."""
        for key, row in self._rows.items():
            if row.removed or row.manifest is None:
                continue
            try:
                yield key, manifest.check(msgspec.json.decode(row.manifest), folder=Path("/"), source="api")
            except InvalidInput as error:  # stored by a newer or older Penstock
                log.warning("stored_model_refused", model=row.name, version=row.version, reason=error.message)

    async def put(self, row: Row) -> None:
        """Store a registration or removal. Raises DatabaseUnavailable."""
        if self._database is None:
            raise DatabaseUnavailable("models are registered in the database, and there is none")
        async with self._database.acquire() as connection:
            await store.put(connection, self._tenant, row)
        self._rows[row.name, row.version] = row
        self._puts += 1

    async def put_removal(self, model: Model) -> None:
        """Store that a model was removed. Raises DatabaseUnavailable."""
        stored = self._rows.get(model.key)
        text = stored.manifest if stored is not None and model.source == "api" else None
        await self.put(Row(name=model.name, version=model.version, manifest=text, removed=True))

    async def follow(self, on_change: Callable[[], Awaitable[None]]) -> None:
        """Poll the table without end; call ``on_change`` after it has changed."""
        if self._database is None:
            return
        away = False
        while True:
            try:
                await self._poll(self._database, on_change)
                away = False
            except DatabaseUnavailable:
                if not away:
                    log.warning("models_not_followed", reason="the database is away")
                away = True
            except Exception:  # the loop must survive unexpected errors, such as a table that does not exist yet
                log.exception("models_not_followed")
            await asyncio.sleep(_POLL_SECONDS)

    async def _poll(self, database: Database, on_change: Callable[[], Awaitable[None]]) -> None:
        puts = self._puts
        async with database.acquire() as connection:
            position = await store.position(connection, self._tenant)
            changed = position != self._position
            rows = await store.read_all(connection, self._tenant) if changed else []
        if changed and puts == self._puts:  # otherwise the rows may be older than those that this process wrote
            self._rows = {(row.name, row.version): row for row in rows}
            await on_change()
            self._position = position
