"""The tenant that owns data, and the principal that sends a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

TenantId = NewType("TenantId", int)
DEFAULT_TENANT: Final = TenantId(1)  # created by the first migration


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The sender of a request, as the access check identified it.

    ``scopes`` is None where no key limits the sender: the holder of ``AI_SERVICE_TOKEN``, and any program of this
    machine while no token is set.
    """

    tenant: TenantId
    key: str | None = None  # the id of the key, never its secret
    scopes: frozenset[str] | None = None
    user: str | None = None  # the end user that the sender states


OPERATOR: Final = Principal(tenant=DEFAULT_TENANT)  # may do everything, in the default tenant
