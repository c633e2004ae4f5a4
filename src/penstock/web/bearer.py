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
        self._token = token
        self._setting = setting  # the name of the setting that holds the token; errors state it

    def __call__(self, request: Request) -> Principal:
        """Return the sender of a request; raises Unauthorized unless the request carries the token."""
        if not holds(request.headers.get(b"authorization", b""), self._token):
            raise Unauthorized(f"the right token is needed: send Authorization: Bearer <{self._setting}>")
        return OPERATOR


def holds(header: bytes, token: Secret) -> bool:
    """Return whether an ``Authorization`` header carries the token, in a time that does not show where they differ."""
    scheme, _, text = header.partition(b" ")
    return hmac.compare_digest(b"%b %b" % (scheme.lower(), text.strip()), b"bearer " + token.reveal().encode())


def anyone(_request: Request) -> Principal:
    """Let every request pass: the check where no token is set."""
    return OPERATOR
