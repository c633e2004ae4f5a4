"""The tenant that owns data, and the principal that sends a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NewType

from penstock.errors import ScopeMissing
from penstock.tenants import scopes

TenantId = NewType("TenantId", int)
DEFAULT_TENANT: Final = TenantId(1)  # created by the first migration
DEFAULT_NAME: Final = "default"


def logged(tenant_name: str) -> dict[str, str]:
    """Return the field of a log event that names its tenant; none for the default tenant."""
    return {} if tenant_name == DEFAULT_NAME else {"tenant": tenant_name}


@dataclass(frozen=True, slots=True)
class Subject:
    """The one thing to which a ticket gives access: ``Subject("job", "0199…")``."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The sender of a request, as the access check identified it.

    The lists of names limit the sender to some models, queues (``task_type/model_profile``) and apps; None states none.
    What a key without such a list may use depends on its others, see ``usable_queues`` and ``may_use_app``.
    """

    tenant: TenantId
    tenant_name: str
    scopes: frozenset[str]
    key: str | None = None  # the id of the key, never its secret; None: AI_SERVICE_TOKEN, or no token is set
    user: str | None = None  # the end user that the sender states
    models: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    apps: frozenset[str] | None = None
    subject: Subject | None = None  # None: anything that the scopes allow
    ticket: bool = False
    grant: Grant | None = field(default=None, compare=False, repr=False)  # None: it cannot be withdrawn

    @property
    def operator(self) -> bool:
        return scopes.OPERATOR in self.scopes

    @property
    def usable_queues(self) -> frozenset[str] | None:
        """The queues that the sender may use; None: all. A key that states apps only may use none but by them."""
        return frozenset() if self.queues is None and self.apps is not None else self.queues

    def may_use_app(self, app: str) -> bool:
        """Return whether the sender may use an app. A key that states models or queues only may use none."""
        if self.apps is None:
            return self.queues is None and self.models is None
        return app in self.apps

    def require(self, scope: str) -> None:
        """Raise ScopeMissing unless the sender has a scope."""
        if scope not in self.scopes:
            raise ScopeMissing(f"this needs a key with the scope {scope}")


class Grant:
    """The present rights of a key, shared by all requests in progress that were sent with it.

    Streams, waits and calls watch it, because they last longer than the check at their start. It belongs to one event
    loop.
    """

    __slots__ = ("_watchers", "principal", "refusal")

    def __init__(self) -> None:
        self.principal: Principal | None = None  # None: the key is no longer valid
        self.refusal = ""  # why it is not valid
        self._watchers: dict[object, tuple[str, Callable[[str], object]]] = {}

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    def replace(self, principal: Principal | None, refusal: str = "") -> None:
        """Set what the key allows now, and call the watchers of requests that it no longer allows."""
        before, self.principal = self.principal, principal
        self.refusal = refusal
        for scope, callback in list(self._watchers.values()):
            reason = self.withdrawn(scope, since=before)
            if reason:
                callback(reason)

    def withdrawn(self, scope: str, *, since: Principal | None) -> str:
        """Return why the key no longer allows what it allowed ``since``; empty if it does."""
        now = self.principal
        if now is None:
            return self.refusal or "this key is not valid"
        if scope not in now.scopes and scope != scopes.ANY:
            return f"the scope {scope} was removed from this key"
        if since is not None and _narrower(since, now):
            return "the models, queues or apps of this key were restricted"
        return ""

    @contextmanager
    def watching(self, scope: str, callback: Callable[[str], object]) -> Iterator[None]:
        """Have ``callback`` called with the reason if the key loses the scope while the block runs."""
        token = object()
        self._watchers[token] = (scope, callback)
        try:
            yield
        finally:
            del self._watchers[token]


class TwoGrants(Grant):
    """A grant that needs two others: it ends with the first of them."""

    __slots__ = ("_one", "_other")

    def __init__(self, one: Grant, other: Grant) -> None:
        super().__init__()
        self._one = one
        self._other = other

    def withdrawn(self, scope: str, *, since: Principal | None) -> str:
        return self._one.withdrawn(scope, since=since) or self._other.withdrawn(scope, since=since)

    @contextmanager
    def watching(self, scope: str, callback: Callable[[str], object]) -> Iterator[None]:
        with self._one.watching(scope, callback), self._other.watching(scope, callback):
            yield


def _narrower(before: Principal, after: Principal) -> bool:
    """Return whether any of the lists of names has lost a name."""
    pairs = ((before.models, after.models), (before.queues, after.queues), (before.apps, after.apps))
    return any(new is not None and (old is None or not old <= new) for old, new in pairs)


# The holder of AI_SERVICE_TOKEN, and any program of this machine while no token is set.
OPERATOR: Final = Principal(tenant=DEFAULT_TENANT, tenant_name=DEFAULT_NAME, scopes=scopes.ALL)
