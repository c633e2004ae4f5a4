"""Encrypt the secrets of endpoints with the secret of the installation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import asyncpg

from penstock.access.instance import Instance
from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.callbacks import signing, store
from penstock.callbacks.deliveries import Target
from penstock.errors import PenstockError


class CannotOpen(Exception):
    """This host cannot decrypt the secret of an endpoint, for the reason given."""


def place_of(endpoint_id: UUID) -> str:
    """Return the place that a secret is bound to: a secret copied to another row cannot be decrypted."""
    return f"callback:{endpoint_id}"


class Sealing:
    """Encrypts and decrypts the secrets of endpoints."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def secret(self) -> InstanceSecret:
        """Return the installation's secret that encrypts new secrets; raises DatabaseUnavailable."""
        return await self._instance.secret_now()

    def keys(self, endpoint_id: UUID, target: Target) -> Sequence[bytes]:
        """Return the keys that sign messages: the current one, and the previous one while that is valid.

        Raises CannotOpen.
        """
        place = place_of(endpoint_id)
        try:
            found = [self.plain(one, target.secret_id, place) for one in (target.sealed, target.previous_sealed)]
        except PenstockError as error:
            raise CannotOpen(error.message) from None
        return [signing.parse(one.decode()) for one in found if one is not None]

    def plain(self, sealed: bytes | None, secret_id: str | None, place: str) -> bytes | None:
        """Decrypt the secret that was stored at a place, if there is one. Raises CannotUnseal."""
        if sealed is None or secret_id is None:
            return None
        return self._instance.source.unseal(sealed, secret_id=secret_id, place=place)


async def reseal(connection: asyncpg.Connection, secrets: Secrets) -> list[str]:
    """Encrypt again, with the installation's current secret, what the previous one encrypts.

    Returns what cannot be decrypted, each as ``callback:ID``.
    """
    left: list[str] = []
    if secrets.previous is None:
        return left
    for row in await store.sealed_under(connection, secrets.previous.id):
        place = place_of(row.id)
        try:
            plain = [
                None if one is None else secrets.previous.unseal(one, place=place)
                for one in (row.sealed, row.previous_sealed)
            ]
        except CannotUnseal:
            left.append(place)
            continue
        sealed, previous = (None if one is None else secrets.current.seal(one, place=place) for one in plain)
        assert sealed is not None  # noqa: S101 - a row under a secret has one
        await store.reseal(
            connection, replace(row, sealed=sealed, previous_sealed=previous), secret_id=secrets.current.id
        )
    return left
