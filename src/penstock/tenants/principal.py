"""The tenant that owns data, and the principal that sends a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

from penstock.errors import ScopeMissing
from penstock.tenants import scopes

TenantId = NewType("TenantId", int)
DEFAULT_TENANT: Final = TenantId(1)  # created by the first migration
DEFAULT_NAME: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The sender of a request, as the access check identified it.

    The lists of names limit the sender to some models, queues (``task_type/model_profile``) and apps; None allows all.
    """

    tenant: TenantId
    tenant_name: str
    scopes: frozenset[str]
    key: str | None = None  # the id of the key, never its secret; None: AI_SERVICE_TOKEN, or no token is set
    user: str | None = None  # the end user that the sender states
    models: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    apps: frozenset[str] | None = None

    @property
    def operator(self) -> bool:
        return scopes.OPERATOR in self.scopes

    def require(self, scope: str) -> None:
        """Raise ScopeMissing unless the sender has a scope."""
        if scope not in self.scopes:
            raise ScopeMissing(f"this needs a key with the scope {scope}")


# The holder of AI_SERVICE_TOKEN, and any program of this machine while no token is set.
OPERATOR: Final = Principal(tenant=DEFAULT_TENANT, tenant_name=DEFAULT_NAME, scopes=scopes.ALL)
