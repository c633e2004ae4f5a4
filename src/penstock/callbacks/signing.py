"""Secrets and signatures of messages, as Standard Webhooks defines them."""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
_BYTES: Final = 32  # of a secret that is generated
_LEAST: Final = 24
_MOST: Final = 64
MEANING: Final = f"must be {PREFIX} and {_LEAST} to {_MOST} bytes in base64"


def generate() -> str:
    """Return a new secret."""
    return PREFIX + b64encode(secrets.token_bytes(_BYTES)).decode()


def parse(text: str) -> bytes:
    """Return the bytes of a secret; raises ValueError, which does not repeat the text."""
    try:
        raw = b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(MEANING) from None
    if not text.startswith(PREFIX) or not _LEAST <= len(raw) <= _MOST:
        raise ValueError(MEANING)
    return raw


def signatures(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``: one signature for each key."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return " ".join("v1," + b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
