"""The credentials that this gateway has seen. They never change, and their keys are checked by ``KeyCache``.

An unknown API key is looked up in the database, in batches with one statement in flight, so that requests with invented
ones cannot overload it. An API key that does not exist, or whose secret this gateway cannot decrypt, is remembered for
a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from penstock.access.secret import CannotUnseal
from penstock.athena.credentials import store
from penstock.athena.credentials.credential import Credential
from penstock.athena.credentials.sealing import Sealing
from penstock.batching import Batching
from penstock.errors import DatabaseUnavailable, Overloaded
from penstock.postgres.pool import Database
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_ENTRIES: Final = 20_000
_MAX_UNKNOWN: Final = 10_000
_UNKNOWN_SECONDS: Final = 1.0  # how long an API key without a usable credential is remembered
_MAX_READING: Final = 1000  # API keys that wait to be read
_DIGITS: Final = frozenset("0123456789abcdef")
_LENGTH: Final = 32


class CredentialCache:
    """Finds credentials by their API keys."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing
        self._known: dict[str, Credential] = {}
        self._unknown: dict[str, float] = {}  # API key → time until which it does not exist
        self._undecryptable: dict[str, float] = {}  # API key → time until which its secret cannot be decrypted
        self._reading = Batching(self._read, max_items=256)
        self._waiting = 0

    async def find(self, api_key: str) -> Credential | None:
        """Return the credential with an API key; None if there is none. Raises DatabaseUnavailable, Overloaded."""
        known = self._known.get(api_key)
        if known is not None:
            return known
        if len(api_key) != _LENGTH or not _DIGITS.issuperset(api_key):
            return None
        now = time.monotonic()
        if self._unknown.get(api_key, -math.inf) > now:
            return None
        if self._undecryptable.get(api_key, -math.inf) > now:
            raise _no_secret()
        if self._waiting >= _MAX_READING:
            raise Overloaded("too many unknown API keys arrive; try again in a second")
        self._waiting += 1
        try:
            found = await self._reading.put(api_key)
        finally:
            self._waiting -= 1
        self._keep(api_key, found)
        return found

    def _keep(self, api_key: str, found: Credential | None) -> None:
        if found is None:
            _remember(api_key, self._unknown)
            return
        if len(self._known) >= _MAX_ENTRIES:
            self._known.clear()
        self._known[api_key] = found

    async def _read(self, api_keys: Sequence[str]) -> Sequence[Credential | None | BaseException]:
        async with self._database.acquire() as connection:
            stored = await store.by_api_key(connection, list(dict.fromkeys(api_keys)))
        found: dict[str, Credential | BaseException] = {}
        for api_key, one in stored.items():
            try:
                secret = self._sealing.plain(one)
            except CannotUnseal as error:
                log.error("credential_cannot_be_decrypted", key_id=one.key_id, reason=error.message)
                _remember(api_key, self._undecryptable)
                found[api_key] = _no_secret()
                continue
            found[api_key] = Credential(key_id=one.key_id, api_key=one.api_key, app_id=one.app_id, api_secret=secret)
        return [found.get(api_key) for api_key in api_keys]


def _remember(api_key: str, times: dict[str, float]) -> None:
    if len(times) >= _MAX_UNKNOWN:
        times.clear()
    times[api_key] = time.monotonic() + _UNKNOWN_SECONDS


def _no_secret() -> DatabaseUnavailable:
    return DatabaseUnavailable("this gateway does not have the secret of its database")
