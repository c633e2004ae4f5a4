"""The access check: by the token; without one, programs of this machine are allowed and other sites' pages are not."""

from __future__ import annotations

from functools import lru_cache

from penstock.errors import Forbidden
from penstock.masking import Secret
from penstock.settings.gateway import is_loopback
from penstock.tenants.principal import OPERATOR, Principal
from penstock.web.bearer import BearerCheck
from penstock.web.request import Request


class Access:
    """Checks requests against ``AI_SERVICE_TOKEN``."""

    def __init__(self, token: Secret | None) -> None:
        self._bearer = None if token is None else BearerCheck(token, "AI_SERVICE_TOKEN")

    @property
    def guarded(self) -> bool:
        """Whether a token is needed at all."""
        return self._bearer is not None

    def check(self, request: Request) -> Principal:
        """Return the sender of a request. Raises Unauthorized without the token, and Forbidden for a request that a
        page of another site caused in a browser."""
        if self._bearer is not None:
            return self._bearer(request)
        _refuse_foreign_pages(request)
        return OPERATOR


def _refuse_foreign_pages(request: Request) -> None:
    """Raise Forbidden for requests of other sites' pages: cross-site ones, and those to a name of such a site that
    resolves to this machine (DNS rebinding)."""
    if request.header(b"sec-fetch-site") == "cross-site":
        raise Forbidden("web pages of other sites may not call this API while AI_SERVICE_TOKEN is not set")
    host = request.header(b"host")
    if host is not None and not _names_this_machine(host):
        raise Forbidden(
            "while AI_SERVICE_TOKEN is not set, this API can be reached by localhost and loopback addresses only, "
            f"not to {host[:100]!r}"
        )


@lru_cache(maxsize=64)
def _names_this_machine(host: str) -> bool:
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name) or name.lower().endswith(".localhost")
