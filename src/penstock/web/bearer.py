"""The check of a bearer token (RFC 6750)."""

from __future__ import annotations

import hmac

from penstock.errors import Unauthorized
from penstock.masking import Secret
from penstock.tenants.principal import OPERATOR, Principal
from penstock.web.request import Request


class BearerCheck:
    """Compares the token of requests with a secret, in constant time; its holder may do everything."""

    def __init__(self, token: Secret, setting: str) -> None:
        self._expected = b"bearer " + token.reveal().encode()
        self._setting = setting  # which holds the token; named in the error

    def __call__(self, request: Request) -> Principal:
        """Return the sender of a request; raises Unauthorized unless the request carries the token."""
        scheme, _, secret = request.headers.get(b"authorization", b"").partition(b" ")
        if not hmac.compare_digest(b"%b %b" % (scheme.lower(), secret.strip()), self._expected):
            raise Unauthorized(f"the right token is needed: send Authorization: Bearer <{self._setting}>")
        return OPERATOR


def anyone(_request: Request) -> Principal:
    """Let every request pass, where no token is set."""
    return OPERATOR
