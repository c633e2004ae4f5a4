"""Models that were registered or removed over HTTP: stored in PostgreSQL, and the same for every host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from penstock.access import store as access
from penstock.access.audit import Action, Sender
from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.models import manifest, store
from penstock.models.manifest import Key, Model
from penstock.models.sealing import Sealing
from penstock.models.store import Row
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.tenants.principal import DEFAULT_TENANT, TenantId

log = logs.get(__name__)

_POLL_SECONDS: Final = 2.0  # the time until another process's registration is noticed
_REMOVED: Final = b"{}"  # in place of the manifest of a registered model that was removed


class Registrations:
    """This process's copy of the table. Without a database nothing can be registered."""

    def __init__(
        self, database: Database | None, *, sealing: Sealing | None = None, reach: tuple[str, ...] = ()
    ) -> None:
        self._database = database
        self._sealing = sealing
        self._reach = reach  # networks besides the public internet that models of tenants may connect to
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
                yield key, self.checked(msgspec.json.decode(row.manifest), row.owner)
            except InvalidInput as error:  # stored by a newer or older Penstock
                log.warning("stored_model_refused", model=row.name, version=row.version, reason=error.message)

    def checked(self, stated: Mapping[str, Any], owner: str | None) -> Model:
        """Return the model of a manifest that a tenant or the operator registers. Raises InvalidInput."""
        reach = None if owner is None else self._reach
        return manifest.check(stated, folder=Path("/"), source="api", owner=owner, reach=reach)

    async def put(self, rows: Sequence[Row], sender: Sender | None, action: Action) -> None:
        """Store registrations or removals of one owner, and what the sender did. Raises DatabaseUnavailable."""
        if self._database is None:
            raise DatabaseUnavailable("models are registered in the database, and there is none")
        stored = [row if self._sealing is None else await self._sealing.seal(row) for row in rows]
        async with self._database.acquire() as connection, connection.transaction():
            for row in stored:
                await store.put(connection, await _tenant_of(connection, row), row)
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
                    log.warning("models_not_followed", reason="the database is unavailable")
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
            opened = rows if self._sealing is None else [self._sealing.open(row) for row in rows]
            self._rows = {(row.owner, row.name, row.version): row for row in opened if row is not None}
            await on_change()
            self._position = position


async def _tenant_of(connection: asyncpg.Connection, row: Row) -> TenantId:
    if row.owner is None:
        return DEFAULT_TENANT
    found = await access.tenant(connection, row.owner)
    assert found is not None  # noqa: S101 - tenants are not deleted
    return found[0]
