"""Credentials, as the API shows them and as the authentication uses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from penstock.access.key import Names, Text

APP_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)"
AppId = Annotated[str, Meta(pattern=APP_ID_PATTERN)]


class AthenaKeyCreation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to create credentials of an application. Without ``services`` it may call all of its tenant's."""

    name: Text
    app_id: AppId
    services: Names | None = None  # names of models
    expires_at: datetime | None = None


class AthenaKey(Struct, frozen=True, kw_only=True):
    """Credentials without their secrets. ``id`` is that of the key to which they belong."""

    id: str
    name: str
    app_id: str
    api_key: str
    services: list[str] | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class CreatedAthenaKey(AthenaKey, frozen=True, kw_only=True):
    """New credentials. This is the only time that ``api_secret`` and the text of the key are shown."""

    api_secret: str
    key: str


class AthenaKeyList(Struct, frozen=True, kw_only=True):
    """The credentials of a tenant, the oldest first."""

    keys: list[AthenaKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCredential:
    """A credential as the database stores it."""

    key_id: str
    api_key: str
    app_id: str
    sealed: bytes = field(repr=False)
    secret_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential with its secret, by which requests are verified."""

    key_id: str
    api_key: str
    app_id: str
    api_secret: bytes = field(repr=False)
