"""The schemas of the models of services: workers publish them in the database, and the APIs check tasks by them.

An API of a service has neither the model nor its packages, so it cannot know the schema by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Raw

from penstock.errors import DatabaseUnavailable, InvalidInput
from penstock.models.checking import Checker
from penstock.models.host.host import ModelHost
from penstock.postgres import queries
from penstock.postgres.pool import Database
from penstock.telemetry import logs

log = logs.get(__name__)

_INTERVAL: Final = timedelta(seconds=10)  # at which workers show that they are alive
_ALIVE: Final = timedelta(seconds=30)
_KEEP: Final = timedelta(days=1)
_POLL_SECONDS: Final = 1.0  # between two comparisons of a worker's models with what it has published
_REMEMBER_SECONDS: Final = 1.0  # for which an API need not read the schemas again

_sql = queries.load(__file__, "schemas.sql")


class SchemaPublishing:
    """Publishes the schemas of a worker's models, as soon as they are known and as long as it runs."""

    def __init__(self, database: Database, host: ModelHost) -> None:
        self._database = database
        self._host = host
        self._published: dict[tuple[str, str], bytes] = {}
        self._publish_at = 0.0  # monotonic
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop publishing. Idempotent; safe if never started."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def once(self) -> None:
        """Publish if something has changed, or if it is time to show that the worker is alive."""
        found = self._schemas()
        if not found or (found == self._published and time.monotonic() < self._publish_at):
            return
        async with self._database.acquire() as connection:
            await _sql.publish_schemas.run(
                connection,
                models=[model for model, _ in found],
                fingerprints=[fingerprint for _, fingerprint in found],
                schemas=[Raw(schema) for schema in found.values()],
            )
            await _sql.forget_schemas.run(connection, seconds=_KEEP.total_seconds())
        self._published = found
        self._publish_at = time.monotonic() + _INTERVAL.total_seconds()

    def _schemas(self) -> dict[tuple[str, str], bytes]:
        """Return the known schemas of the operator's models, by name and fingerprint: of the versions that jobs get."""
        found: dict[tuple[str, str], bytes] = {}
        for entry in self._host.entries.values():
            schema = entry.versions[entry.default].schema
            if entry.owner is None and schema is not None:
                text = msgspec.json.encode(schema.input, order="sorted")
                found[entry.name, hashlib.sha256(text).hexdigest()] = text
        return found

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except DatabaseUnavailable:
                pass  # it is tried again
            except Exception:  # an unforeseen error must not end the publishing
                log.exception("schemas_not_published")
            await asyncio.sleep(_POLL_SECONDS)


class TaskCheck:
    """Checks inputs by the schemas that workers have published for one model.

    Workers may have different versions while a new one is deployed: an input is refused only if every one refuses it.
    Without a living worker all inputs are accepted; the worker that runs the task checks them.
    """

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model
        self._checkers: dict[str, Checker] = {}  # by the fingerprint of the schema
        self._read_at = 0.0  # monotonic; not before then
        self._reading = asyncio.Lock()

    async def refusal(self, given: Raw) -> InvalidInput | None:
        """Return why an input is refused, or None if it may be accepted. Raises DatabaseUnavailable."""
        await self._refresh()
        try:
            value = msgspec.json.decode(given)
        except (msgspec.MsgspecError, RecursionError) as error:
            return InvalidInput.of("input", f"cannot be read: {error}")
        refusal = None
        for checker in self._checkers.values():
            try:
                checker.check(value, prefix="input", json=bytes(given))
            except InvalidInput as error:
                refusal = error
            else:
                return None
        return refusal

    async def _refresh(self) -> None:
        async with self._reading:
            if time.monotonic() < self._read_at:
                return
            async with self._database.acquire() as connection:
                rows = await _sql.schemas_of.rows(connection, model=self._model, alive_seconds=_ALIVE.total_seconds())
            self._checkers = {
                row["fingerprint"]: self._checkers.get(row["fingerprint"])
                or Checker(msgspec.json.decode(row["schema"]), uploads=True)
                for row in rows
            }
            self._read_at = time.monotonic() + _REMEMBER_SECONDS
