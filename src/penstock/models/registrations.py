"""Models that were registered or removed over HTTP: stored in PostgreSQL, and the same for every host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from penstock.access import store as access
from penstock.access.audit import Action, Sender
from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.models import manifest, store
from penstock.models.manifest import Key, Model
from penstock.models.store import Row
from penstock.postgres.pool import Database
from penstock.telemetry import logs

log = logs.get(__name__)

_POLL_SECONDS: Final = 2.0  # the time until another process's registration is noticed
_REMOVED: Final = b"{}"  # in place of the manifest of a registered model that was removed


class Registrations:
    """This process's copy of the table. Without a database nothing can be registered."""

    def __init__(self, database: Database | None) -> None:
        self._database = database
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
                stated = msgspec.json.decode(row.manifest)
                yield key, manifest.check(stated, folder=Path("/"), source="api", owner=row.owner)
            except InvalidInput as error:  # stored by a newer or older Penstock
                log.warning("stored_model_refused", model=row.name, version=row.version, reason=error.message)

    async def put(self, rows: Sequence[Row], sender: Sender | None, action: Action) -> None:
        """Store registrations or removals of one owner, and what the sender did. Raises DatabaseUnavailable."""
        if self._database is None:
            raise DatabaseUnavailable("models are registered in the database, and there is none")
        async with self._database.acquire() as connection, connection.transaction():
            for row in rows:
                tenant = None
                if row.owner is not None:
                    found = await access.tenant(connection, row.owner)
                    assert found is not None  # noqa: S101 - tenants are not deleted
                    tenant = found[0]
                await store.put(connection, tenant, row)
            if sender is not None:
                await access.record(connection, sender.principal.tenant, sender.principal, sender.address, action)
        self._rows |= {(row.owner, row.name, row.version): row for row in rows}
        self._puts += 1

    async def put_removals(self, models: Sequence[Model], sender: Sender | None) -> None:
        """Store that versions of one model were removed. Raises DatabaseUnavailable."""
        rows = [
            Row(
                owner=model.owner,
                name=model.name,
                version=model.version,
                manifest=_REMOVED if model.source == "api" else None,
                removed=True,
            )
            for model in models
        ]
        versions = {"versions": [row.version for row in rows]}
        await self.put(rows, sender, Action(name="model.remove", subject=rows[0].name, before=versions))

    async def record(self, sender: Sender | None, action: Action) -> None:
        """Record an action that changes no row. Raises DatabaseUnavailable."""
        if self._database is None or sender is None:
            return
        async with self._database.acquire() as connection:
            await access.record(connection, sender.principal.tenant, sender.principal, sender.address, action)

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
            position = await store.position(connection)
            changed = position != self._position
            rows = await store.read_all(connection) if changed else []
        if changed and puts == self._puts:  # otherwise the rows may be older than those that this process wrote
            self._rows = {(row.owner, row.name, row.version): row for row in rows}
            await on_change()
            self._position = position
