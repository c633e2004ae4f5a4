"""The secret of this host, checked against the database: all hosts of one database must have the same."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from penstock.access import store
from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.access.secret_file import SecretSource
from penstock.errors import CannotStart, WrongState
from penstock.postgres.pool import Database

_CANARY: Final = b"penstock"
_MAX_NAMED: Final = 20


class Instance:
    """Gives out the secret of the installation, once it is known to be that of the database."""

    def __init__(self, database: Database, source: SecretSource) -> None:
        self.source = source
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
        """Return the current secret; the database learns its id if it has none.

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

    async def rotate(self) -> Secrets:
        """Make a new secret the current one; both are valid until ``finish``.

        With ``PENSTOCK_SECRET_KEY`` set, that must state both already. Raises CannotStart and WrongState.
        """
        await self.secret()
        secrets = self.source.get()
        if secrets.previous is None:
            if self.source.from_environment:
                raise WrongState(
                    "PENSTOCK_SECRET_KEY is set: state a new secret in front of the present one, separated by a comma, "
                    f"on every host, and restart it; for example {InstanceSecret.generate().text()}"
                )
            secrets = Secrets(InstanceSecret.generate(), secrets.current)
            self.source.write(secrets)  # before the database: gateways read the file when its number of changes grows
        async with self._database.acquire() as connection, connection.transaction():
            await store.next_generation(connection)
            if secrets.current.id in await store.secrets(connection):
                raise WrongState("the secret is being rotated; finish that first: penstock secret rotate --finish")
            await store.add_secret(connection, secrets.current.id, _canary(secrets.current))
        self._checked = secrets.current.id
        return secrets

    async def finish(self) -> None:
        """End the rotation. Raises WrongState while valid keys are under the previous secret, and names them."""
        secrets = self.source.get()
        previous = secrets.previous
        if previous is None:
            raise WrongState("the secret is not being rotated")
        async with self._database.acquire() as connection, connection.transaction():
            await store.next_generation(connection)
            left = await store.keys_under(connection, previous.id, at_most=_MAX_NAMED + 1)
            if left:
                more = ", …" if len(left) > _MAX_NAMED else ""
                raise WrongState(
                    f"these keys were not used since the rotation began: {', '.join(left[:_MAX_NAMED])}{more}. "
                    "A key moves to the new secret when it is used; revoke those that are not needed"
                )
            await store.remove_secret(connection, previous.id)
        if not self.source.from_environment:
            self.source.write(Secrets(secrets.current))


def _canary(secret: InstanceSecret) -> bytes:
    return secret.seal(_CANARY, place=f"canary:{secret.id}")


def _require_same(source: SecretSource, stored: dict[str, bytes]) -> InstanceSecret:
    """Return the newest of this host's secrets that the database knows; raises CannotStart if it knows none."""
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
