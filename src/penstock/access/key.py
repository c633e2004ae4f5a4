"""Tenants and keys, as the API shows them and as the database stores them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from penstock.tenants import scopes
from penstock.tenants.principal import Principal, TenantId

_END: Final = r"(?!\n)"  # because $ also matches before a line break at the end
Text = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$" + _END)]
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
TenantName = Annotated[str, Meta(pattern=TENANT_PATTERN + _END)]
Names = Annotated[list[Text], Meta(max_length=100)]
Scope = Literal[
    "jobs:read", "jobs:submit", "jobs:work", "models:call", "models:manage", "files", "collections:read",
    "collections:write", "usage:read", "tenant:admin",
    "operator",
]  # fmt: skip
ScopeList = Annotated[list[Scope], Meta(min_length=1, max_length=len(scopes.ALL))]


class Tenant(Struct, frozen=True, kw_only=True):
    """A team or customer: the owner of jobs, files, models and keys."""

    name: str
    time_zone: str
    created_at: datetime
    suspended_at: datetime | None = None
    deleting_since: datetime | None = None  # since then all that it owns is being removed


class TenantCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to create a tenant. Its days and months begin at midnight of the time zone (IANA name)."""

    name: TenantName
    time_zone: Text = "UTC"


class TenantChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to change a tenant; fields that are left out stay as they are."""

    time_zone: Text | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET


class KeyCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to create a key. Without lists of names it may use all models, queues and apps of its tenant."""

    name: Text
    scopes: ScopeList
    models: Names | None = None
    queues: Names | None = None  # "task_type/model_profile"
    apps: Names | None = None
    expires_at: datetime | None = None


class KeyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to change a key; fields that are left out stay as they are, and null removes a limit."""

    name: Text | UnsetType = UNSET
    scopes: ScopeList | UnsetType = UNSET
    models: Names | UnsetType | None = UNSET
    queues: Names | UnsetType | None = UNSET
    apps: Names | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET


class KeyRotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to replace a key: the old one stays valid for the overlap, so that its users can switch."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=90 * 86400)] = 86400.0


class Key(Struct, frozen=True, kw_only=True):
    """A key without its secret, which is shown once."""

    id: str
    name: str
    scopes: list[str]
    models: list[str] | None = None
    queues: list[str] | None = None
    apps: list[str] | None = None
    created_at: datetime
    created_by: str | None  # the id of a key; null for AI_SERVICE_TOKEN
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    replaced_by: str | None = None


class CreatedKey(Key, frozen=True, kw_only=True):
    """A new key. This is the only time that its text is shown."""

    key: str


class KeyList(Struct, frozen=True, kw_only=True):
    """The keys of a tenant, the oldest first."""

    keys: list[Key]


class TenantList(Struct, frozen=True, kw_only=True):
    """All tenants, by name."""

    tenants: list[Tenant]


class Identity(Struct, frozen=True, kw_only=True):
    """The sender of a request, as the service sees it."""

    tenant: str
    key: str | None
    scopes: list[str]
    user: str | None = None
    models: list[str] | None = None
    queues: list[str] | None = None
    apps: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """The stored fields by which a key is checked, read by one statement that saw all changes up to ``generation``."""

    id: str
    tenant: TenantId
    tenant_name: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    queues: frozenset[str] | None
    apps: frozenset[str] | None
    digest: bytes
    secret_id: str
    expires_in: float | None  # seconds from the time of the statement
    expires_at: datetime | None
    revoked: bool
    suspended: bool
    generation: int

    @property
    def refusal(self) -> str | None:
        """Why the key is not valid; None if it is."""
        if self.revoked:
            return "this key was revoked"
        if self.suspended:
            return "this tenant is suspended"
        if self.expires_in is not None and self.expires_in <= 0:
            return "this key has expired"
        return None

    def principal(self) -> Principal:
        return Principal(
            tenant=self.tenant,
            tenant_name=self.tenant_name,
            scopes=scopes.ALL if scopes.OPERATOR in self.scopes else self.scopes,
            key=self.id,
            models=self.models,
            queues=self.queues,
            apps=self.apps,
        )
