"""The secret of this host, checked against the database: all hosts of one database must have the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg

from penstock.access import store
from penstock.access.audit import Action
from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.access.secret_file import SecretSource
from penstock.errors import CannotStart, DatabaseUnavailable, WrongState
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR

log = logs.get(__name__)

_CANARY: Final = b"penstock"
_MAX_NAMED: Final = 20
# Encrypts again, with the current secret, what another room stores under the previous one. Returns the names of the
# values for which that is not possible.
Reseal = Callable[[asyncpg.Connection, Secrets], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStatus:
    """The location and the ids of this host's secret, and what a rotation still waits for."""

    place: str
    id: str
    previous_id: str | None
    in_database: list[str]
    left: list[str]  # valid keys that are under the previous secret


class Instance:
    """The secret of the installation, returned only after it was compared with that of the database."""

    def __init__(self, database: Database, source: SecretSource, *, reseal: Sequence[Reseal] = ()) -> None:
        self.source = source
        self._reseal = reseal
        self._database = database
        self._checked: str | None = None  # the id of the secret that was compared with the database

    async def check(self) -> None:
        """Compare this host's secret with that of the database, where that has one.

        Raises CannotStart if it is another, and DatabaseUnavailable.
        """
        async with self._database.acquire() as connection:
            stored = await store.secrets(connection)
        if stored:
            _require_same(self.source, stored)

    async def secret(self) -> InstanceSecret:
        """Return the current secret; store its id in the database if none is stored.

        Raises CannotStart if this host has another secret, and DatabaseUnavailable.
        """
        current = self.source.get().current
        if self._checked != current.id:
            async with self._database.acquire() as connection, connection.transaction():
                await store.next_generation(connection)  # one host at a time
                stored = await store.secrets(connection)
                if not stored:
                    await store.add_secret(connection, current.id, _canary(current))
                else:
                    current = _require_same(self.source, stored)
            self._checked = current.id
        return current

    async def secret_now(self) -> InstanceSecret:
        """Return the current secret for a request; raises DatabaseUnavailable also if this host has another one."""
        try:
            return await self.secret()
        except CannotStart as error:
            log.error("secret_missing", reason=error.message)
            raise DatabaseUnavailable(
                "this gateway does not have the secret of its database; its log says more"
            ) from None

    async def status(self) -> SecretStatus:
        """Return the state of this host's secret. Raises CannotStart if the database has another one."""
        async with self._database.acquire() as connection:
            stored = await store.secrets(connection)
            if stored:
                _require_same(self.source, stored)
            secrets = self.source.get()
            left = [] if secrets.previous is None else await self._left(connection, secrets.previous)
        return SecretStatus(
            place="PENSTOCK_SECRET_KEY" if self.source.from_environment else str(self.source.path),
            id=secrets.current.id,
            previous_id=None if secrets.previous is None else secrets.previous.id,
            in_database=list(stored),
            left=left,
        )

    async def rotate(self) -> Secrets:
        """Make a new secret the current one; both are valid until ``finish``.

        If ``PENSTOCK_SECRET_KEY`` is set, it must already hold both. Raises CannotStart and WrongState.
        """
        await self.secret()
        secrets = self.source.get()
        if secrets.previous is None:
            if self.source.from_environment:
                raise WrongState(
                    "PENSTOCK_SECRET_KEY is set: put a new secret before the current one, separated by a comma, on "
                    "every host, restart Penstock there, and repeat this; make one with: openssl rand -base64 32"
                )
            secrets = Secrets(InstanceSecret.generate(), secrets.current)
            self.source.write(secrets)  # first: once its id is in the database, gateways read it from here
        async with self._database.acquire() as connection, connection.transaction():
            await store.next_generation(connection)
            if secrets.current.id in await store.secrets(connection):
                raise WrongState(
                    "the secret is being rotated already; finish that first: penstock secret rotate --finish"
                )
            await store.add_secret(connection, secrets.current.id, _canary(secrets.current))
            for reseal in self._reseal:
                await reseal(connection, secrets)
            await _record(connection, "secret.rotate", secrets.current)
        self._checked = secrets.current.id
        return secrets

    async def finish(self) -> None:
        """End the rotation. Raises WrongState while something is under the previous secret, and names it."""
        await self.secret()
        secrets = self.source.get()
        previous = secrets.previous
        if previous is None:
            raise WrongState("the secret is not being rotated")
        if not await self._is_stored(secrets.current):
            raise WrongState("the rotation has not begun: penstock secret rotate")
        async with self._database.acquire() as connection, connection.transaction():
            await store.next_generation(connection)
            left = await self._left(connection, previous)
            for reseal in self._reseal:  # hosts that did not know of the rotation may have added something
                left += await reseal(connection, secrets)
            if left:
                raise WrongState(
                    f"these are under the previous secret: {', '.join(left)}. A key moves to the new secret when it is "
                    "used; revoke those that are not needed. Models, callbacks and credentials of Athena that are left "
                    "cannot be decrypted: remove them"
                )
            await store.remove_secret(connection, previous.id)
            await _record(connection, "secret.finish", secrets.current)
        if not self.source.from_environment:
            self.source.write(Secrets(secrets.current))

    async def _is_stored(self, secret: InstanceSecret) -> bool:
        """Return whether the id of a secret is in the database."""
        async with self._database.acquire() as connection:
            return secret.id in await store.secrets(connection)

    async def _left(self, connection: asyncpg.Connection, previous: InstanceSecret) -> list[str]:
        """Return the names of some valid keys under the previous secret; the last is "…" if there are more."""
        left = await store.keys_under(connection, previous.id, at_most=_MAX_NAMED + 1)
        return left if len(left) <= _MAX_NAMED else [*left[:_MAX_NAMED], "…"]


async def _record(connection: asyncpg.Connection, name: str, secret: InstanceSecret) -> None:
    """Record an action of the command line on this host, which reaches the database without a gateway."""
    await store.record(connection, DEFAULT_TENANT, OPERATOR, "command line", Action(name=name, subject=secret.id))


def _canary(secret: InstanceSecret) -> bytes:
    return secret.seal(_CANARY, place=f"canary:{secret.id}")


def _require_same(source: SecretSource, stored: dict[str, bytes]) -> InstanceSecret:
    """Return the newest of this host's secrets whose id is in the database; raises CannotStart if none is."""
    for secrets in (source.get(), source.reload()):
        for secret in (secrets.current, secrets.previous):
            if secret is not None and secret.id in stored:
                with suppress(CannotUnseal):
                    if secret.unseal(stored[secret.id], place=f"canary:{secret.id}") == _CANARY:
                        return secret
    held = "PENSTOCK_SECRET_KEY" if source.from_environment else str(source.path)
    raise CannotStart(
        f"this database belongs to an installation with another secret than the one in {held}: all hosts of a database "
        "must have the same PENSTOCK_SECRET_KEY (penstock secret show prints that of a host)"
    )
