"""The client's calls about tenants, keys, tickets and the audit log."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import quote
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType

from penstock.access import audit
from penstock.access.key import CreatedKey, Identity, Key, KeyList, Tenant, TenantList
from penstock.access.ticket import Ticket
from penstock.client.transport import Query, Transport
from penstock.client.views import as_id

_TENANTS: Final = "/api/v1/tenants"
_KEYS: Final = "/api/v1/keys"
_PAGE: Final = 1000


class Recorded(audit.Recorded, frozen=True, kw_only=True):
    """One action in the audit log; ``before`` and ``after`` are objects of the fields that it changed."""

    before: Any = None
    after: Any = None


class AuditPage(Struct, frozen=True, kw_only=True):
    """Some recorded actions, the newest first. ``next`` is the ``before`` of the next page; None at the end."""

    actions: list[Recorded]
    next: int | None = None


class KeyFields(TypedDict, total=False):
    """The fields of a key that can be changed; None removes a limit."""

    name: str
    scopes: Collection[str]
    models: Collection[str] | None
    queues: Collection[str] | None  # "task_type/model_profile"
    apps: Collection[str] | None
    expires_at: datetime | None


class AccessCalls:
    """The calls of ``Client`` about tenants, keys, tickets and the audit log.

    Tenants are managed by operators, keys by holders of the scope ``tenant:admin``.
    """

    _transport: Transport

    async def identity(self) -> Identity:
        """Return this client as the service sees it: its tenant, key, scopes and user."""
        return await self._transport.call("GET", "/api/v1/identity", Identity)

    # Tenants

    async def tenants(self) -> Sequence[Tenant]:
        """Return all tenants, by name."""
        found: list[Tenant] = []
        query: Query = {"limit": str(_PAGE)}
        while True:
            page = (await self._transport.call("GET", _TENANTS, TenantList, query=query)).tenants
            found += page
            if len(page) < _PAGE:
                return found
            query = {"limit": str(_PAGE), "after": page[-1].name}

    async def tenant(self, name: str) -> Tenant:
        """Return a tenant; raises NotFound."""
        return await self._transport.call("GET", _path(_TENANTS, name), Tenant)

    async def create_tenant(self, name: str, *, time_zone: str = "UTC") -> Tenant:
        """Create a tenant; raises AlreadyExists."""
        body = {"name": name, "time_zone": time_zone}
        return await self._transport.call("POST", _TENANTS, Tenant, body=body, repeatable=False)

    async def change_tenant(
        self, name: str, *, time_zone: str | UnsetType = UNSET, suspended: bool | UnsetType = UNSET
    ) -> Tenant:
        """Change a tenant. While it is suspended its keys are not valid; its open requests end."""
        body = _stated(time_zone=time_zone, suspended=suspended)
        return await self._transport.call("PATCH", _path(_TENANTS, name), Tenant, body=body)

    async def delete_tenant(self, name: str, *, with_usage: bool = False) -> Tenant:
        """Have a suspended tenant deleted with all that it owns, in the background; raises NotFound and WrongState.

        Its sums of usage are kept unless ``with_usage`` is set.
        """
        query: Query = {"with_usage": "true"} if with_usage else {}
        return await self._transport.call("DELETE", _path(_TENANTS, name), Tenant, query=query)

    # Keys

    async def keys(self) -> Sequence[Key]:
        """Return the tenant's keys without their texts, the oldest first."""
        return (await self._transport.call("GET", _KEYS, KeyList)).keys

    async def key(self, key_id: str) -> Key:
        """Return a key without its text; raises NotFound."""
        return await self._transport.call("GET", _path(_KEYS, key_id), Key)

    async def create_key(
        self,
        name: str,
        scopes: Collection[str],
        *,
        models: Collection[str] | None = None,
        queues: Collection[str] | None = None,
        apps: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> CreatedKey:
        """Create a key with at most the rights of this client. Its text, ``key``, is returned only here."""
        fields = KeyFields(
            name=name, scopes=scopes, models=models, queues=queues, apps=apps, expires_at=expires_at
        )  # fmt: skip
        return await self._transport.call("POST", _KEYS, CreatedKey, body=_fields(fields), repeatable=False)

    async def change_key(self, key_id: str, **fields: Unpack[KeyFields]) -> Key:
        """Change a key; open requests that it no longer allows end within two seconds."""
        return await self._transport.call("PATCH", _path(_KEYS, key_id), Key, body=_fields(fields))

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key; its open requests end within two seconds."""
        return await self._transport.call("POST", f"{_path(_KEYS, key_id)}/revoke", Key)

    async def rotate_key(self, key_id: str, *, overlap: timedelta = timedelta(days=1)) -> CreatedKey:
        """Create a key with the rights of another, which expires after ``overlap``."""
        path, body = f"{_path(_KEYS, key_id)}/rotate", {"overlap_seconds": overlap.total_seconds()}
        return await self._transport.call("POST", path, CreatedKey, body=body, repeatable=False)

    async def issue_ticket(
        self,
        scopes: Collection[str],
        *,
        user: str | None = None,
        job_id: UUID | str | None = None,
        ttl: timedelta = timedelta(seconds=60),
        once: bool = False,
    ) -> Ticket:
        """Issue a text for the query parameter ``ticket``, with some of this client's scopes, perhaps for one job."""
        body: dict[str, Any] = {"scopes": list(scopes), "ttl_seconds": int(ttl.total_seconds()), "once": once}
        if user is not None:
            body["user"] = user
        if job_id is not None:
            body["subject"] = {"kind": "job", "id": as_id(job_id)}
        return await self._transport.call("POST", "/api/v1/tickets", Ticket, body=body)

    # The audit log

    async def audit(
        self,
        *,
        action: str | None = None,
        subject: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> AuditPage:
        """Return a page of the tenant's audit log, the newest first; pass its ``next`` as ``before`` for the next."""
        stated = {"action": action, "subject": subject, "before": None if before is None else str(before)}
        query = {name: value for name, value in stated.items() if value is not None} | {"limit": str(limit)}
        return await self._transport.call("GET", "/api/v1/audit", AuditPage, query=query)


def _path(collection: str, name: str) -> str:
    """Return the path of one item of a collection; the name is quoted, so that it cannot lead elsewhere."""
    return f"{collection}/{quote(name, safe='')}"


def _stated(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def _fields(fields: KeyFields) -> object:
    """Return the fields of a key as JSON values; collections of names become lists."""
    return {
        name: list(value)
        if isinstance(value, Collection) and not isinstance(value, str)
        else msgspec.to_builtins(value)
        for name, value in fields.items()
    }
