"""The endpoints that submissions name. Equal ones share a row, so each has one state for any number of jobs."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from penstock.callbacks import marketplace, store
from penstock.callbacks.callback import Callback, check_callback
from penstock.callbacks.sealing import Sealing, place_of
from penstock.callbacks.store import NamedEndpoint
from penstock.outbound.policy import Policy
from penstock.postgres.pool import Database
from penstock.tenants.principal import TenantId

_MAX_REMEMBERED: Final = 10_000


class CallbackTargets:
    """Resolves the callbacks of submissions, and attaches them to new jobs."""

    def __init__(self, database: Database, sealing: Sealing, policy: Policy, *, marketplace: bool = False) -> None:
        self._database = database
        self._sealing = sealing
        self._policy = policy
        self._marketplace = marketplace  # whether there is one
        self._known: dict[tuple[TenantId, bytes], UUID] = {}
        self._known_on: date | None = None

    def check(self, callback: Callback, *, field: str) -> None:
        """Raise InvalidInput for a callback that cannot be used."""
        check_callback(callback, self._policy, field=field)

    async def marketplace(self, tenant: TenantId, ended: Sequence[str]) -> UUID | None:
        """Return the endpoint of the marketplace, or None if there is no marketplace. Raises DatabaseUnavailable."""
        if not self._marketplace:
            return None
        return (await self.resolve(tenant, [Callback(url=marketplace.URL)], ended))[0]

    async def resolve(self, tenant: TenantId, callbacks: Sequence[Callback], ended: Sequence[str]) -> list[UUID]:
        """Return the endpoints that callbacks name, in order. ``ended`` are the events of one that names none.

        Raises DatabaseUnavailable.
        """
        today = datetime.now(UTC).date()
        if self._known_on != today or len(self._known) > _MAX_REMEMBERED:
            self._known.clear()  # once a day it is noted that an endpoint is used
            self._known_on = today
        secret = await self._sealing.secret()
        key = secret.derive("callback endpoints")
        named = {_digest(key, one, ended): one for one in callbacks}
        found = {digest: self._known[tenant, digest] for digest in named if (tenant, digest) in self._known}
        missing = sorted(named.keys() - found.keys())
        if missing:
            new: list[NamedEndpoint] = []
            for digest in missing:
                callback, endpoint_id = named[digest], uuid7()
                sealed = (
                    None
                    if callback.secret is None
                    else secret.seal(callback.secret.encode(), place=place_of(endpoint_id))
                )
                new.append(
                    NamedEndpoint(
                        id=endpoint_id,
                        digest=digest,
                        url=callback.url,
                        events=_events(callback, ended),
                        sealed=sealed,
                        secret_id=None if sealed is None else secret.id,
                    )
                )
            async with self._database.acquire() as connection:
                named_now = await store.name_endpoints(connection, tenant, new)
            found |= named_now  # what is remembered may be forgotten meanwhile
            self._known |= {(tenant, digest): endpoint for digest, endpoint in named_now.items()}
        return [found[_digest(key, one, ended)] for one in callbacks]


def _events(callback: Callback, ended: Sequence[str]) -> list[str]:
    return sorted(set(callback.events if callback.events is not None else ended))


def _digest(key: bytes, callback: Callback, ended: Sequence[str]) -> bytes:
    named = msgspec.json.encode([callback.url, _events(callback, ended), callback.secret])
    return hmac.digest(key, named, "sha256")
