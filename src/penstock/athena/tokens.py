"""Access tokens of OAuth 2.0 (client credentials, RFC 6749 §4.4), which stand in for an API key and its secret.

They are signed texts. Nothing is stored, so every gateway of the installation accepts a token at once. A token ends
with the key that it belongs to.
"""

from __future__ import annotations

import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from typing import Final

import msgspec
from msgspec import Struct

from penstock.access.instance import Instance
from penstock.athena.credentials.credential import Credential

TTL_SECONDS: Final = 1800
PREFIX: Final = "at."
_PURPOSE: Final = "athena-token"
_MAX_CHARACTERS: Final = 1024


class Claims(Struct, frozen=True, kw_only=True):
    """The signed content of a token."""

    key_id: str
    app_id: str
    expires: int  # seconds since 1970


_claims: Final = msgspec.json.Decoder(Claims)


class AccessTokens:
    """Issues and verifies access tokens."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def issue(self, credential: Credential) -> str:
        """Return a token for the holder of a credential. Raises DatabaseUnavailable."""
        secret = await self._instance.secret_now()
        claims = Claims(key_id=credential.key_id, app_id=credential.app_id, expires=int(time.time()) + TTL_SECONDS)
        body = _encode(msgspec.json.encode(claims))
        return f"{PREFIX}{body}.{_encode(_signature(secret.derive(_PURPOSE), body))}"

    def verified(self, text: str) -> Claims | None:
        """Return the content of a valid token; None if it is not valid or has expired."""
        body, _, signature = text.removeprefix(PREFIX).partition(".")
        if len(text) > _MAX_CHARACTERS or not text.startswith(PREFIX) or not text.isascii():
            return None
        for secret in self._instance.source.get().all():
            expected = _encode(_signature(secret.derive(_PURPOSE), body))
            if hmac.compare_digest(expected, signature):
                try:
                    claims = _claims.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
                except (msgspec.MsgspecError, NotBase64):
                    return None
                return claims if claims.expires > time.time() else None
        return None


def _signature(key: bytes, body: str) -> bytes:
    return hmac.digest(key, body.encode(), "sha256")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
