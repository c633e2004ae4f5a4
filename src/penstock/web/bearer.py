"""The check of a bearer token (RFC 6750)."""

from __future__ import annotations

import hmac

from penstock.errors import Unauthorized
from penstock.masking import Secret
from penstock.tenants.principal import OPERATOR, Principal
from penstock.web.request import Request


class BearerCheck:
    """Compares the token of a request with a secret, in constant time. Its holder may do everything."""

    def __init__(self, token: Secret, setting: str) -> None:
        self._expected = b"bearer " + token.reveal().encode()
        self._setting = setting  # the name of the setting that holds the token; errors state it

    def __call__(self, request: Request) -> Principal:
        """Return the sender of a request; raises Unauthorized unless the request carries the token."""
        scheme, _, secret = request.headers.get(b"authorization", b"").partition(b" ")
        if not hmac.compare_digest(b"%b %b" % (scheme.lower(), secret.strip()), self._expected):
            raise Unauthorized(f"the right token is needed: send Authorization: Bearer <{self._setting}>")
        return OPERATOR


def anyone(_request: Request) -> Principal:
    """Let every request pass: the check where no token is set."""
    return OPERATOR
