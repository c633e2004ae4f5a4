"""The keys that this gateway has seen. They are checked without the database; changes take effect after a moment.

A request costs a keyed digest of its header and one lookup in a dictionary. No text of a key is kept, and the time of
the lookup reveals nothing about it. A header that is not in the dictionary is checked against the database, in batches
with one statement in flight, so that requests with unknown keys cannot overload it.

``KeyWatch`` reads the changes twice a second, and at once after a wake-up. An entry that was read before the last
change is read again. While the database is unavailable, known keys stay valid for ``stale``; then they are refused
with DatabaseUnavailable, because one of them may have been revoked.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from penstock.access import keys, store
from penstock.access.key import StoredKey
from penstock.access.secret_file import SecretSource
from penstock.batching import Batching
from penstock.errors import DatabaseUnavailable, Overloaded, Unauthorized
from penstock.postgres.pool import Database
from penstock.telemetry import logs
from penstock.tenants.principal import Grant, Principal

log = logs.get(__name__)

_MAX_ENTRIES: Final = 100_000
_MAX_SPELLINGS: Final = 16  # headers of one key: "Bearer" may be in any case, with any number of spaces
_MAX_READING: Final = 1000  # keys that wait to be read
_UNKNOWN_SECONDS: Final = 1.0  # how long an id that does not exist is remembered
_MAX_UNKNOWN: Final = 10_000
_IDLE_MINUTES: Final = 10
_TRIES: Final = 3
_FRESH_SECONDS: Final = 1.75  # how long keys are used without querying the database, while that is available
_REREAD_SECONDS: Final = 1.0  # the longest wait for a key that was known before


class Entry:
    """A header that identifies a key. ``deadline`` is the monotonic time at which the key expires."""

    __slots__ = ("deadline", "digests", "grant", "idle_minutes", "key", "used")

    def __init__(self, key: StoredKey, grant: Grant, deadline: float) -> None:
        self.key = key
        self.grant = grant
        self.deadline = deadline
        self.digests: list[bytes] = []  # of the headers that had the key
        self.used = True
        self.idle_minutes = 0


class KeyCache:
    """The keys known to this process."""

    def __init__(self, database: Database, secrets: SecretSource, *, stale: timedelta) -> None:
        self._database = database
        self._secrets = secrets
        self._stale = stale.total_seconds()
        self._process_key = token_bytes(32)  # in front of what is hashed: BLAKE2 needs no HMAC, and this is one block
        self._by_header: dict[bytes, Entry] = {}
        self._by_id: dict[str, Entry] = {}
        self._unknown: dict[str, float] = {}
        self._reading = Batching(self._read, max_items=256)
        self._waiting = 0
        self.first_known: Callable[[], None] = lambda: None  # called when there is a key whose changes matter
        self.generation = 0  # of the newest change that known keys have
        self.lost = False  # the last attempt to read the changes has failed
        self.seen = 0  # of the newest change that was seen: a key that was read before it is read again
        self._read_at = -math.inf  # monotonic
        self._valid_until = -math.inf  # monotonic: until then known keys are accepted without the database

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> list[str]:
        """The ids of the known keys."""
        return list(self._by_id)

    def find(self, header: bytes) -> Principal | None:
        """Return the principal of an ``Authorization`` header that was checked before; None if it has to be checked."""
        entry = self._by_header.get(blake2b(self._process_key + header).digest())
        if entry is None:
            return None
        now = time.monotonic()
        if now >= entry.deadline or now > self._valid_until:
            return None
        entry.used = True
        return entry.grant.principal

    async def check(self, header: bytes, text: str) -> Principal:
        """Check the key ``text`` of a header, and remember the header.

        Raises Unauthorized, DatabaseUnavailable, or Overloaded while too many unknown keys arrive.
        """
        entry = await self.entry(text)
        principal = entry.grant.principal
        if principal is None:  # it was revoked while it was moved to a new secret
            raise Unauthorized(entry.grant.refusal)
        self._remember(header, entry)
        return principal

    def _remember(self, header: bytes, entry: Entry) -> None:
        if len(entry.digests) >= _MAX_SPELLINGS:
            self._forget_headers(entry)
        if len(self._by_header) >= _MAX_ENTRIES:
            self._by_header.clear()  # they are checked again, by their ids, without the database
        digest = blake2b(self._process_key + header).digest()
        self._by_header[digest] = entry
        entry.digests.append(digest)

    def _forget_headers(self, entry: Entry) -> None:
        for digest in entry.digests:
            self._by_header.pop(digest, None)
        entry.digests.clear()

    async def entry(self, text: str) -> Entry:
        """Return the valid entry of a key. Raises as ``check`` does."""
        key_id = keys.id_of(text)
        if key_id is None:
            raise Unauthorized("this is not a key of Penstock, or it was mistyped")
        entry = await self.by_id(key_id)
        if self._secrets.get().get(entry.key.secret_id) is None:  # another gateway has moved it to a new secret
            entry = await self._load(key_id)
        if not await self._matches(entry.key, text):
            raise Unauthorized("this key does not exist")
        await self._move_to_current(entry.key, text)
        return entry

    async def by_id(self, key_id: str) -> Entry:
        """Return the valid entry of a key by its id. Raises as ``check`` does."""
        entry = self._by_id.get(key_id)
        if entry is None:
            entry = await self._load(key_id)
        elif time.monotonic() > self._valid_until:
            entry = await self._load_again(entry)
        if time.monotonic() >= entry.deadline:
            raise Unauthorized("this key has expired")
        if entry.grant.principal is None:
            raise Unauthorized(entry.grant.refusal)
        return entry

    def confirm(self, read_at: float) -> None:
        """Note that all changes up to a monotonic time are known."""
        self._read_at = max(self._read_at, read_at)
        self._valid_until = self._read_at + min(_FRESH_SECONDS, self._stale)
        self.lost = False

    def lose(self) -> None:
        """Accept the known keys for a while without the database, because it is unavailable."""
        self._valid_until = self._read_at + self._stale
        self.lost = True

    def minute(self) -> list[str]:
        """Return the ids of the keys that were used in the last minute, and forget those unused for ten."""
        found = []
        for entry in list(self._by_id.values()):
            if entry.used:
                found.append(entry.key.id)
                entry.used, entry.idle_minutes = False, 0
                continue
            entry.idle_minutes += 1
            if entry.idle_minutes >= _IDLE_MINUTES and not entry.grant.watched:
                self._forget(entry)
        return found

    async def refresh(self, ids: Iterable[str], generation: int) -> None:
        """Read the known keys among ``ids`` again, and end the requests of those that are no longer valid."""
        self._unknown.clear()
        known = [key_id for key_id in ids if key_id in self._by_id]
        rows: dict[str, StoredKey] = {}
        for first in range(0, len(known), 256):
            async with self._database.acquire() as connection:
                rows |= await store.keys(connection, known[first : first + 256])
        for key_id in known:
            if key_id in self._by_id:
                self._replace(self._by_id[key_id], rows.get(key_id))
        self.generation = max(self.generation, generation)

    async def reload_secrets(self) -> None:
        """Read the secrets again. While they are being rotated, each key is checked at its next use, which moves it."""
        if (await asyncio.to_thread(self._secrets.reload)).previous is not None:
            self._by_header.clear()

    def restart(self, generation: int) -> None:
        """Forget everything and end all requests, because the database is at an earlier state, as after a restore."""
        for entry in list(self._by_id.values()):
            entry.grant.replace(None, "the database was restored; send the request again")
        self._by_id.clear()
        self._by_header.clear()
        self.generation = self.seen = generation

    def expire(self) -> None:
        """End the requests of keys that have expired."""
        now = time.monotonic()
        for entry in self._by_id.values():
            if now >= entry.deadline and entry.grant.principal is not None:
                entry.grant.replace(None, "this key has expired")

    async def _matches(self, key: StoredKey, text: str) -> bool:
        secret = self._secrets.get().get(key.secret_id)
        if secret is None:
            secret = (await asyncio.to_thread(self._secrets.reload)).get(key.secret_id)
        if secret is None:
            log.error("secret_missing", secret_id=key.secret_id, key_id=key.id)
            raise DatabaseUnavailable("the keys of this database belong to another PENSTOCK_SECRET_KEY")
        return hmac.compare_digest(secret.digest(text), key.digest)

    async def _move_to_current(self, key: StoredKey, text: str) -> None:
        """Store the key's digest under the new secret while the secret is being rotated."""
        current = self._secrets.get().current
        if key.secret_id == current.id:
            return
        try:
            async with self._database.acquire() as connection:
                if current.id not in await store.secrets(connection):
                    return  # this host has a newer secret than the database
                await store.move(connection, key.id, old=key.secret_id, new=current.id, digest=current.digest(text))
        except DatabaseUnavailable:
            return  # the next gateway that checks the key moves it
        entry = self._by_id.get(key.id)
        if entry is not None:  # which may have been read again meanwhile
            entry.key = replace(entry.key, digest=current.digest(text), secret_id=current.id)

    async def _load_again(self, known: Entry) -> Entry:
        """Read a known key, because the watch is late: this process was stopped, or the event loop was blocked."""
        try:
            async with asyncio.timeout(_REREAD_SECONDS):
                return await self._load(known.key.id)
        except (DatabaseUnavailable, TimeoutError) as error:
            if time.monotonic() <= self._read_at + self._stale:
                return known
            raise DatabaseUnavailable from error

    async def _load(self, key_id: str) -> Entry:
        if self._unknown.get(key_id, -math.inf) > time.monotonic():
            raise Unauthorized("this key does not exist")
        if self._waiting >= _MAX_READING:
            raise Overloaded("too many unknown keys arrive; try again in a second")
        key = await self._read_now(key_id)
        if key is None:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[key_id] = time.monotonic() + _UNKNOWN_SECONDS
            raise Unauthorized("this key does not exist")
        if key.refusal is not None:
            raise Unauthorized(key.refusal)
        entry = self._by_id.get(key_id)
        if entry is None:
            entry = self._by_id[key_id] = Entry(key, Grant(), math.inf)
            if len(self._by_id) == 1:
                self.first_known()
        self._replace(entry, key)
        return entry

    async def _read_now(self, key_id: str) -> StoredKey | None:
        """Read a key, again if there was a change that its statement did not see: it may be about this key."""
        self._waiting += 1
        try:
            for _ in range(_TRIES):
                key = await self._reading.put(key_id)
                if key is None or key.generation >= self.seen:
                    return key
        finally:
            self._waiting -= 1
        raise DatabaseUnavailable("keys change faster than they can be read; try again")

    async def _read(self, ids: Sequence[str]) -> Sequence[StoredKey | None]:
        """Read keys by id."""
        began = time.monotonic()
        async with self._database.acquire() as connection:
            if not self._by_id:  # no key is known yet, so earlier changes do not matter
                self.generation = self.seen = (await store.state(connection)).generation
            found = await store.keys(connection, list(dict.fromkeys(ids)))
        if not self._by_id:
            self.confirm(began)
        return [found.get(key_id) for key_id in ids]

    def _replace(self, entry: Entry, key: StoredKey | None) -> None:
        """Store what was read of a key. If it no longer exists or is invalid, end its requests and forget it."""
        if key is not None and key.generation < entry.key.generation:
            return  # a later statement has seen more
        refusal = "this key was deleted" if key is None else key.refusal
        if key is None or refusal is not None:
            entry.grant.replace(None, refusal or "")
            self._forget(entry)
            return
        entry.key = key
        entry.deadline = math.inf if key.expires_in is None else time.monotonic() + key.expires_in
        entry.grant.replace(replace(key.principal(), grant=entry.grant))

    def _forget(self, entry: Entry) -> None:
        self._by_id.pop(entry.key.id, None)
        self._forget_headers(entry)
