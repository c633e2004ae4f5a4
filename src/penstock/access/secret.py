"""The secret of an installation, and the keys derived from it, one for each purpose.

It protects the secrets in the database: of an API key, only a keyed digest is stored, and other secrets are encrypted
(AES-256-GCM, with the place of the secret as associated data, so that a value copied to another row cannot be read).
All hosts that share a database share the secret.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from penstock.errors import PenstockError

BYTES: Final = 32
_NONCE_BYTES: Final = 12


class CannotUnseal(PenstockError):
    """An encrypted value was made with another secret, for another place, or was changed."""

    code = "cannot_unseal"


class InstanceSecret:
    """One secret. ``id`` identifies it without revealing it."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != BYTES:
            raise ValueError(f"must be {BYTES} bytes, as base64 or hexadecimal digits")
        self._raw = raw
        self._derived: dict[str, bytes] = {}
        self.id = self.derive("id")[:6].hex()

    @classmethod
    def generate(cls) -> InstanceSecret:
        return cls(secrets.token_bytes(BYTES))

    @classmethod
    def parse(cls, text: str) -> InstanceSecret:
        """Read a secret from text; raises ValueError, which does not repeat the text."""
        text = text.strip()
        try:
            if len(text) == 2 * BYTES:
                return cls(bytes.fromhex(text))
            return cls(urlsafe_b64decode(text.replace("+", "-").replace("/", "_").rstrip("=") + "="))
        except (ValueError, binascii.Error):
            raise ValueError(f"must be {BYTES} bytes, as base64 or hexadecimal digits") from None

    def text(self) -> str:
        """Return the secret as ``parse`` reads it."""
        return urlsafe_b64encode(self._raw).rstrip(b"=").decode()

    def derive(self, purpose: str) -> bytes:
        """Return the key for one purpose (HKDF-SHA256, RFC 5869)."""
        if purpose not in self._derived:
            kdf = HKDF(algorithm=SHA256(), length=BYTES, salt=None, info=f"penstock {purpose}".encode())
            self._derived[purpose] = kdf.derive(self._raw)
        return self._derived[purpose]

    def digest(self, key: str) -> bytes:
        """Return the keyed digest of an API key, which is all that is stored of it."""
        return hmac.digest(self.derive("api-key"), key.encode(), "sha256")

    def seal(self, plain: bytes, *, place: str) -> bytes:
        """Encrypt a secret that is stored at a place, such as ``provider:openai``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self.derive("seal")).encrypt(nonce, plain, place.encode())

    def unseal(self, sealed: bytes, *, place: str) -> bytes:
        """Return the secret that ``seal`` encrypted; raises CannotUnseal."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.derive("seal")).decrypt(nonce, encrypted, place.encode())
        except (InvalidTag, ValueError):
            raise CannotUnseal(f"the secret of {place} cannot be decrypted") from None

    def __repr__(self) -> str:
        return f"InstanceSecret({self.id})"


class Secrets:
    """The current secret and, while it is being rotated, the previous one."""

    def __init__(self, current: InstanceSecret, previous: InstanceSecret | None = None) -> None:
        self.current = current
        self.previous = previous
        self._by_id = {secret.id: secret for secret in (previous, current) if secret is not None}

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Secrets:
        """Read one or two secrets, the current one first; raises ValueError."""
        if not 1 <= len(texts) <= 2:
            raise ValueError("must be one secret, or two while it is rotated: the new one first")
        return cls(*(InstanceSecret.parse(text) for text in texts))

    def get(self, secret_id: str) -> InstanceSecret | None:
        return self._by_id.get(secret_id)

    def all(self) -> list[InstanceSecret]:
        return list(self._by_id.values())
