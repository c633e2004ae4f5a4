"""Load the histories and the mail of a tenant's runs: one statement loads those of many runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from penstock.batching import Batching
from penstock.flows.kernel.records import Mail, StoredStep, StoredTurn
from penstock.flows.sql import histories, store
from penstock.flows.sql.store import Gate
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Everything stored about a run that has not ended."""

    gate: Gate
    turns: list[StoredTurn]
    steps: list[StoredStep]
    consumed: list[Mail]
    unread: list[Mail]


class RunReader:
    """The batchers of one tenant."""

    def __init__(self, database: Database, tenant: TenantId) -> None:
        self._database = database
        self._tenant = tenant
        self._runs: Batching[UUID, Loaded | None] = Batching(self._load, max_items=64, concurrency=2)
        self._mail: Batching[tuple[UUID, int], list[Mail]] = Batching(self._load_mail, concurrency=2)

    async def load(self, run_id: UUID) -> Loaded | None:
        """Return what is stored about a run, or None if it has ended."""
        return await self._runs.put(run_id)

    async def mail(self, run_id: UUID, after: int) -> list[Mail]:
        """Return the mail of a run after an id, in order."""
        return await self._mail.put((run_id, after))

    async def _load(self, run_ids: Sequence[UUID]) -> list[Loaded | None]:
        async with self._database.acquire() as connection:
            gates = await store.gates(connection, self._tenant, run_ids)
            begun = [run_id for run_id, gate in gates.items() if gate.turns]
            mailed = [(run_id, 0) for run_id, gate in gates.items() if gate.arrived]
            turns = await histories.turns(connection, self._tenant, begun) if begun else {}
            steps = await histories.steps(connection, self._tenant, begun) if begun else {}
            mail = await histories.mail(connection, self._tenant, mailed) if mailed else {}
        return [
            Loaded(
                gate=gate,
                turns=turns.get(run_id, []),
                steps=steps.get(run_id, []),
                consumed=[one for one in mail.get(run_id, ()) if one.id <= gate.seen],
                unread=[one for one in mail.get(run_id, ()) if one.id > gate.seen],
            )
            if (gate := gates.get(run_id)) is not None
            else None
            for run_id in run_ids
        ]

    async def _load_mail(self, afters: Sequence[tuple[UUID, int]]) -> list[list[Mail]]:
        async with self._database.acquire() as connection:
            found = await histories.mail(connection, self._tenant, afters)
        return [found[run_id] for run_id, _ in afters]
