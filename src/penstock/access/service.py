"""The use cases of managing tenants and keys. Each is one transaction, with its row in the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import asyncpg
import msgspec
from msgspec import UNSET

from penstock.access import keys, store
from penstock.access.audit import Action, AuditPage, Sender, change
from penstock.access.instance import Instance
from penstock.access.key import (
    CreatedKey,
    Key,
    KeyChange,
    KeyCreation,
    KeyRotation,
    Tenant,
    TenantChange,
    TenantCreation,
)
from penstock.access.key_watch import TOPIC
from penstock.errors import AlreadyExists, InvalidInput, NotFound, Overloaded, ScopeMissing, Unauthorized, WrongState
from penstock.postgres.pool import Database
from penstock.postgres.wakeups import Wakeups
from penstock.suggestions import did_you_mean
from penstock.tenants import scopes
from penstock.tenants.principal import DEFAULT_NAME, DEFAULT_TENANT, Principal, TenantId

_MAX_KEYS: Final = 1000  # valid ones of a tenant
_LATEST: Final = timedelta(days=3653)  # of an expiry
# Stores what belongs to a new key; returns further fields for the audit log, without secrets.
Beside = Callable[[asyncpg.Connection, Key], Awaitable[Mapping[str, Any]]]


class AccessService:
    """Manages tenants and keys. ``token_set``: whether operators can use AI_SERVICE_TOKEN."""

    def __init__(self, database: Database, instance: Instance, wakeups: Wakeups, *, token_set: bool) -> None:
        self._database = database
        self._instance = instance
        self._wakeups = wakeups
        self._token_set = token_set

    # Keys

    async def create_key(self, sender: Sender, creation: KeyCreation, *, beside: Beside | None = None) -> CreatedKey:
        """Create a key of the sender's tenant with at most the sender's rights. Its text is returned only here.

        ``beside`` stores what belongs to the key, in the same transaction.
        """
        _check_expiry(creation.expires_at)
        if not self._token_set and sender.principal.key is None and scopes.OPERATOR not in creation.scopes:
            raise InvalidInput.of(
                "scopes",
                "must have operator for the first key while AI_SERVICE_TOKEN is not set: from then on every request "
                "needs a key, and no other key could create further ones for all tenants",
            )
        new = keys.generate()
        secret = await self._instance.secret_now()
        async with self._changing() as (connection, generation):
            principal, expires_at = await self._rights(connection, sender.principal)
            _check_rights(principal, creation)
            _check_end(expires_at, creation.expires_at)
            await self._check_number(connection, principal.tenant)
            await store.create_key(
                connection,
                principal.tenant,
                new.id,
                creation,
                digest=secret.digest(new.text.reveal()),
                secret_id=secret.id,
                created_by=principal.key or "",
                generation=generation,
            )
            created = await self._key(connection, principal.tenant, new.id)
            described = _described(created)
            if beside is not None:
                described |= await beside(connection, created)
            await self._record(connection, sender, Action(name="key.create", subject=new.id, after=described))
        return CreatedKey(**msgspec.structs.asdict(created), key=new.text.reveal())

    async def keys(self, tenant: TenantId) -> list[Key]:
        """Return the keys of a tenant, the oldest first."""
        async with self._database.acquire() as connection:
            return await store.keys_of(connection, tenant, at_most=10 * _MAX_KEYS)

    async def key(self, tenant: TenantId, key_id: str) -> Key:
        """Return a key of a tenant; raises NotFound."""
        async with self._database.acquire() as connection:
            return await self._key(connection, tenant, key_id)

    async def change_key(self, sender: Sender, key_id: str, wanted: KeyChange) -> Key:
        """Change a key. The sender needs the rights that it gives, and those that the key had."""
        async with self._changing() as (connection, generation):
            principal, expires_at = await self._rights(connection, sender.principal)
            before = await self._key(connection, principal.tenant, key_id)
            if before.revoked_at is not None:
                raise WrongState(f"key {key_id} was revoked; create a new one")
            fields = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
            after = msgspec.structs.replace(before, **fields)
            _check_rights(principal, before)
            _check_rights(principal, after)
            if "expires_at" in fields:
                _check_expiry(after.expires_at)
                _check_end(expires_at, after.expires_at)
            await store.change_key(connection, principal.tenant, after, generation)
            action = change("key.change", key_id, _described(before), _described(after))
            await self._record(connection, sender, action)
        return after

    async def revoke_key(self, sender: Sender, key_id: str) -> Key:
        """Revoke a key; its open requests end within two seconds. Revoking it again changes nothing."""
        tenant = sender.principal.tenant
        async with self._changing() as (connection, generation):
            await self._rights(connection, sender.principal)
            before = await self._key(connection, tenant, key_id)
            if before.revoked_at is not None:
                return before
            await store.revoke(connection, tenant, key_id, generation)
            await self._record(connection, sender, Action(name="key.revoke", subject=key_id))
            return await self._key(connection, tenant, key_id)

    async def rotate_key(self, sender: Sender, key_id: str, rotation: KeyRotation) -> CreatedKey:
        """Create a key with the rights of another, which expires after the overlap."""
        new = keys.generate()
        secret = await self._instance.secret_now()
        async with self._changing() as (connection, generation):
            principal, expires_at = await self._rights(connection, sender.principal)
            old = await self._key(connection, principal.tenant, key_id)
            _check_rights(principal, old)
            _check_end(expires_at, old.expires_at)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= datetime.now(UTC)):
                raise WrongState(f"key {key_id} is no longer valid; create a new one")
            if old.replaced_by is not None:
                raise WrongState(f"key {key_id} was replaced by {old.replaced_by}; rotate that one")
            await self._check_number(connection, principal.tenant)
            creation = KeyCreation(
                name=old.name,
                scopes=old.scopes,  # type: ignore[arg-type]  # they were checked when it was created
                models=old.models,
                queues=old.queues,
                apps=old.apps,
                expires_at=old.expires_at,
            )
            await store.create_key(
                connection,
                principal.tenant,
                new.id,
                creation,
                digest=secret.digest(new.text.reveal()),
                secret_id=secret.id,
                created_by=principal.key or "",
                generation=generation,
            )
            await store.replace_key(
                connection,
                principal.tenant,
                key_id,
                by=new.id,
                overlap_seconds=rotation.overlap_seconds,
                generation=generation,
            )
            created = await self._key(connection, principal.tenant, new.id)
            action = Action(
                name="key.rotate",
                subject=key_id,
                after={"replaced_by": new.id, "overlap_seconds": rotation.overlap_seconds},
            )
            await self._record(connection, sender, action)
        return CreatedKey(**msgspec.structs.asdict(created), key=new.text.reveal())

    # Tenants

    async def create_tenant(self, sender: Sender, creation: TenantCreation) -> Tenant:
        """Create a tenant; raises AlreadyExists."""
        _check_time_zone(creation.time_zone)
        async with self._changing() as (connection, generation):
            await self._rights(connection, sender.principal, scopes.OPERATOR)
            if not await store.create_tenant(connection, creation.name, creation.time_zone, generation):
                raise AlreadyExists(f"there is a tenant {creation.name} already, or its deletion has not finished")
            tenant_id, created = await self._tenant(connection, creation.name)
            action = Action(name="tenant.create", subject=created.name, after={"time_zone": created.time_zone})
            await self._record(connection, sender, action, tenant=tenant_id)
        return created

    async def tenants(self, *, after: str = "", at_most: int = 1000) -> list[Tenant]:
        """Return tenants by name, those after a name."""
        async with self._database.acquire() as connection:
            return await store.tenants(connection, after=after, at_most=at_most)

    async def tenant(self, name: str) -> Tenant:
        """Return a tenant; raises NotFound."""
        async with self._database.acquire() as connection:
            return (await self._tenant(connection, name))[1]

    async def change_tenant(self, sender: Sender, name: str, wanted: TenantChange) -> Tenant:
        """Change a tenant. While it is suspended, its keys are not valid, and its open requests end."""
        if wanted.time_zone is not UNSET:
            _check_time_zone(wanted.time_zone)
        if wanted.suspended is True and name == DEFAULT_NAME:
            raise InvalidInput.of("suspended", f"the tenant {DEFAULT_NAME} cannot be suspended: operators belong to it")
        async with self._changing() as (connection, generation):
            await self._rights(connection, sender.principal, scopes.OPERATOR)
            tenant_id, before = await self._tenant(connection, name)
            if before.deleting_since is not None:
                raise WrongState(f"the tenant {name} is being deleted")
            suspended = before.suspended_at is not None if wanted.suspended is UNSET else wanted.suspended
            zone = before.time_zone if wanted.time_zone is UNSET else wanted.time_zone
            changed = msgspec.structs.replace(before, time_zone=zone)
            await store.change_tenant(connection, changed, suspended=suspended, generation=generation)
            after = (await self._tenant(connection, name))[1]
            old = {"time_zone": before.time_zone, "suspended": before.suspended_at is not None}
            new = {"time_zone": after.time_zone, "suspended": suspended}
            await self._record(connection, sender, change("tenant.change", name, old, new), tenant=tenant_id)
        return after

    async def delete_tenant(self, sender: Sender, name: str, *, with_usage: bool) -> Tenant:
        """Have a suspended tenant deleted with all that it owns; its sums of usage only ``with_usage``.

        A housekeeper does it, step by step; until it has finished, the name cannot be used. Repeating it changes
        nothing, except that ``with_usage`` can be added. Raises NotFound, WrongState, and InvalidInput for ``default``.
        """
        if name == DEFAULT_NAME:
            raise InvalidInput.of("name", f"the tenant {DEFAULT_NAME} cannot be deleted: operators belong to it")
        async with self._changing() as (connection, generation):
            await self._rights(connection, sender.principal, scopes.OPERATOR)
            _, before = await self._tenant(connection, name)
            if before.suspended_at is None:
                raise WrongState(f"suspend the tenant {name} first: its keys are still valid")
            await store.begin_deletion(connection, name, with_usage=with_usage, generation=generation)
            action = Action(name="tenant.delete", subject=name, after={"with_usage": with_usage})
            await self._record(connection, sender, action, tenant=DEFAULT_TENANT)
            return (await self._tenant(connection, name))[1]

    # The audit log

    async def audit(
        self, tenant: TenantId, *, before: int, action: str | None, subject: str | None, at_most: int
    ) -> AuditPage:
        """Return recorded actions of a tenant, the newest first."""
        async with self._database.acquire() as connection:
            found = await store.recorded(
                connection,
                tenant,
                before=before,
                action=action,
                subject=subject,
                at_most=at_most + 1,
            )
        page = found[:at_most]
        return AuditPage(actions=page, next=page[-1].id if len(found) > at_most else None)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[tuple[asyncpg.Connection, int]]:
        """Open a transaction with the number of its change; gateways are woken after it."""
        async with self._database.acquire() as connection, connection.transaction():
            yield connection, await store.next_generation(connection)
        self._wakeups.announce(TOPIC)

    async def _check_number(self, connection: asyncpg.Connection, tenant: TenantId) -> None:
        """Raise Overloaded if a tenant has as many valid keys as it may have."""
        if await store.live_keys(connection, tenant) >= _MAX_KEYS:
            raise Overloaded(f"this tenant has {_MAX_KEYS} valid keys; revoke some first")

    async def _rights(
        self, connection: asyncpg.Connection, sender: Principal, scope: str = scopes.TENANT_ADMIN
    ) -> tuple[Principal, datetime | None]:
        """Return what a sender may do in this transaction, and when its key expires.

        The access check may have been long ago, but no other change can come before this transaction has ended. Raises
        Unauthorized if the sender's key is no longer valid, and ScopeMissing if the key has lost the scope.
        """
        if sender.key is None:
            return sender, None
        key = (await store.keys(connection, [sender.key])).get(sender.key)
        if key is None or key.refusal is not None:
            raise Unauthorized("this key was deleted" if key is None else key.refusal or "")
        held = key.principal()
        rights = replace(
            sender, scopes=sender.scopes & held.scopes, models=held.models, queues=held.queues, apps=held.apps
        )
        rights.require(scope)
        if sender.tenant != held.tenant:
            rights.require(scopes.OPERATOR)
        return rights, key.expires_at

    async def _key(self, connection: asyncpg.Connection, tenant: TenantId, key_id: str) -> Key:
        found = await store.key(connection, tenant, key_id)
        if found is None:
            raise NotFound(f"there is no key {key_id[:50]}")
        return found

    async def _tenant(self, connection: asyncpg.Connection, name: str) -> tuple[TenantId, Tenant]:
        found = await store.tenant(connection, name)
        if found is None:
            raise NotFound(f"there is no tenant {name[:100]}")
        return found

    async def _record(
        self, connection: asyncpg.Connection, sender: Sender, action: Action, *, tenant: TenantId | None = None
    ) -> None:
        owner = sender.principal.tenant if tenant is None else tenant
        await store.record(connection, owner, sender.principal, sender.address, action)


def _described(key: Key) -> dict[str, Any]:
    """Return the fields of a key that the audit log records."""
    fields = ("name", "scopes", "models", "queues", "apps", "expires_at")
    described: dict[str, Any] = msgspec.to_builtins({field: getattr(key, field) for field in fields})
    return described


def _check_rights(sender: Principal, key: KeyCreation | Key) -> None:
    """Raise ScopeMissing unless the sender has all that a key allows."""
    if sender.ticket:
        raise ScopeMissing("a ticket cannot give keys, which would outlive it; use a key")
    for scope in key.scopes:
        if scope not in sender.scopes:
            raise ScopeMissing(f"a key can give only what it has, and yours does not have the scope {scope}")
    if scopes.OPERATOR in key.scopes and sender.tenant_name != DEFAULT_NAME:
        raise InvalidInput.of("scopes", f"operator is for keys of the tenant {DEFAULT_NAME}: keys of operators")
    _check_names("models", sender.models, key.models)
    _check_names("queues", sender.queues, key.queues)
    _check_names("apps", sender.apps, key.apps)


def _check_end(of_sender: datetime | None, given: datetime | None) -> None:
    """Raise ScopeMissing if a key would outlive the sender's own."""
    if of_sender is not None and (given is None or given > of_sender):
        raise ScopeMissing(f"a key can give only what it has, and yours expires at {of_sender.isoformat()}")


def _check_names(field: str, held: frozenset[str] | None, given: Sequence[str] | None) -> None:
    if held is None:
        return
    if given is None:
        raise InvalidInput.of(field, f"must list some that your key allows: {', '.join(sorted(held))}")
    for name in given:
        if name not in held:
            raise InvalidInput.of(field, f"{name} is not allowed for your key{did_you_mean(name, held)}")


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is None:
        return
    now = datetime.now(UTC)
    if expires_at.tzinfo is None:
        raise InvalidInput.of("expires_at", "must be a time with its offset, such as 2027-01-30T09:00:00Z")
    if not now < expires_at < now + _LATEST:
        raise InvalidInput.of("expires_at", "must be in the future, ten years at most")


def _check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        detail = (
            f"must be a name of the IANA database, such as Europe/Berlin{did_you_mean(name, available_timezones())}"
        )
        raise InvalidInput.of("time_zone", detail) from None
