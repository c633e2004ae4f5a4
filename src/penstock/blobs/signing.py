"""Signed URLs: each lets anyone who has it read one file until it expires, without a key.

The token in the URL is the tenant's number, the id of the blob, the time of expiry in seconds, and an HMAC-SHA256 of
these under a key that is derived from the secret of the installation for this purpose alone.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from penstock.access.secret import InstanceSecret, Secrets

_PURPOSE: Final = "blob-url"
_FIELDS: Final = struct.Struct(">I16sQ")
_MAC_BYTES: Final = 32
TOKEN_LENGTH: Final = 80  # characters: 60 bytes as base64, without padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The permission to read one blob until a moment."""

    tenant: int
    blob_id: UUID
    expires_at: datetime  # in whole seconds


def sign(secret: InstanceSecret, grant: Grant) -> str:
    """Return the token for a grant."""
    fields = _FIELDS.pack(grant.tenant, grant.blob_id.bytes, int(grant.expires_at.timestamp()))
    return urlsafe_b64encode(fields + _mac(secret, fields)).decode()


def verify(secrets: Secrets, token: str) -> Grant | None:
    """Return the grant of a token that is signed by one of the secrets, or None for any other text."""
    if len(token) != TOKEN_LENGTH or not token.isascii():
        return None
    try:
        signed = urlsafe_b64decode(token)
    except ValueError:
        return None
    if urlsafe_b64encode(signed).decode() != token:  # each token has exactly one spelling
        return None
    fields, mac = signed[: _FIELDS.size], signed[_FIELDS.size :]
    if not any(hmac.compare_digest(_mac(secret, fields), mac) for secret in secrets.all()):
        return None
    tenant, blob_id, expires = _FIELDS.unpack(fields)
    return Grant(tenant=tenant, blob_id=UUID(bytes=blob_id), expires_at=datetime.fromtimestamp(expires, tz=UTC))


def _mac(secret: InstanceSecret, fields: bytes) -> bytes:
    return hmac.digest(secret.derive(_PURPOSE), fields, "sha256")
