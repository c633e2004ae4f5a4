"""Manifests with secrets, such as the key of a server, are stored encrypted with the secret of the installation."""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from penstock.access.instance import Instance
from penstock.access.secret import CannotUnseal, InstanceSecret, Secrets
from penstock.errors import PenstockError
from penstock.models import store
from penstock.models.manifest import Model
from penstock.models.store import Row
from penstock.telemetry import logs

log = logs.get(__name__)


def has_secrets(model: Model) -> bool:
    """Return whether a manifest holds a secret. Any header may be one, whatever its name."""
    options = model.manifest.options
    return bool(model.secrets or options.get("headers") or options.get("api_key"))


class Sealing:
    """Encrypts manifests that hold secrets for the table, and decrypts them when they are read."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def seal(self, row: Row) -> Row:
        """Return a row as it is stored. Raises CannotStart if this host has another secret than the database, and
        DatabaseUnavailable."""
        if not row.secret or row.manifest is None:
            return row
        return _sealed(row, row.manifest, await self._instance.secret_now())

    def open(self, row: Row) -> Row | None:
        """Return a row with its manifest; None, with a line in the log, if this host cannot decrypt it."""
        if row.sealed is None or row.secret_id is None:
            return row
        try:
            manifest = self._instance.source.unseal(row.sealed, secret_id=row.secret_id, place=row.place)
            return replace(row, manifest=manifest, sealed=None, secret_id=None)
        except PenstockError as error:
            log.error("model_cannot_be_decrypted", model=row.name, version=row.version, reason=error.message)
            return None


async def reseal(connection: asyncpg.Connection, secrets: Secrets) -> list[str]:
    """Encrypt what is under the previous secret with the current one.

    Returns what cannot be decrypted, each as ``model:TENANT/NAME/VERSION``.
    """
    left: list[str] = []
    if secrets.previous is None:
        return left
    for tenant, row in await store.sealed_under(connection, secrets.previous.id):
        try:
            plain = secrets.previous.unseal(row.sealed or b"", place=row.place)
        except CannotUnseal:
            left.append(row.place)
        else:
            await store.reseal(connection, tenant, _sealed(row, plain, secrets.current))
    return left


def _sealed(row: Row, manifest: bytes, secret: InstanceSecret) -> Row:
    return replace(row, manifest=None, sealed=secret.seal(manifest, place=row.place), secret_id=secret.id)
