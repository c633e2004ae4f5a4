"""Encrypt the secrets of credentials with the secret of the installation."""

from __future__ import annotations

import asyncpg

from penstock.access.instance import Instance
from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.athena.credentials import store
from penstock.athena.credentials.credential import StoredCredential


def place_of(key_id: str) -> str:
    """Return the place that a secret is bound to: a secret copied to another row cannot be decrypted."""
    return f"athena:{key_id}"


class Sealing:
    """Encrypts and decrypts the secrets of credentials."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def secret(self) -> InstanceSecret:
        """Return the installation's secret that encrypts new secrets; raises DatabaseUnavailable."""
        return await self._instance.secret_now()

    def plain(self, stored: StoredCredential) -> bytes:
        """Return the secret of a stored credential; raises CannotUnseal."""
        place = place_of(stored.key_id)
        return self._instance.source.unseal(stored.sealed, secret_id=stored.secret_id, place=place)


async def reseal(connection: asyncpg.Connection, secrets: Secrets) -> list[str]:
    """Encrypt again, with the installation's current secret, what the previous one encrypts.

    Returns what cannot be decrypted, each as ``athena:KEY``.
    """
    left: list[str] = []
    if secrets.previous is None:
        return left
    for stored in await store.sealed_under(connection, secrets.previous.id):
        place = place_of(stored.key_id)
        try:
            plain = secrets.previous.unseal(stored.sealed, place=place)
        except CannotUnseal:
            left.append(place)
            continue
        sealed = secrets.current.seal(plain, place=place)
        await store.reseal(connection, stored.key_id, sealed, secret_id=secrets.current.id)
    return left
