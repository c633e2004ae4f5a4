"""The check of a bearer token (RFC 6750)."""

from __future__ import annotations

import hmac

from penstock.errors import Unauthorized
from penstock.masking import Secret
from penstock.web.request import Request


class BearerCheck:
    """Compares the token of requests with a secret, in constant time."""

    def __init__(self, token: Secret, setting: str) -> None:
        self._expected = b"bearer " + token.reveal().encode()
        self._setting = setting  # which names the token, for the error

    def check(self, request: Request) -> None:
        """Raise Unauthorized unless the request carries the token."""
        scheme, _, secret = request.headers.get(b"authorization", b"").partition(b" ")
        if not hmac.compare_digest(b"%b %b" % (scheme.lower(), secret.strip()), self._expected):
            raise Unauthorized(f"the right token is needed: send Authorization: Bearer <{self._setting}>")
