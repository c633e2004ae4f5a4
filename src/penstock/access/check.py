"""The access check of a gateway: who sends a request, by ``AI_SERVICE_TOKEN``, a key, or a ticket.

Without a token and without keys, programs of this machine are allowed and other sites' pages are not.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from penstock.access import store
from penstock.access.key import TENANT_PATTERN
from penstock.access.key_cache import KeyCache
from penstock.access.key_watch import KeyWatch
from penstock.access.tenant_grants import SUSPENDED
from penstock.access.tickets import PARAMETER, Tickets
from penstock.errors import Forbidden, InvalidInput, NotFound, ScopeMissing, Unauthorized, WrongState
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.settings.gateway import is_loopback
from penstock.tenants.principal import DEFAULT_TENANT, OPERATOR, Principal, TenantId, TwoGrants
from penstock.web.bearer import holds
from penstock.web.request import Request

_USER: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ufffd]{1,200}")  # U+FFFD stands for bytes that are not UTF-8
_TENANT: Final = re.compile(TENANT_PATTERN)
_MAX_TENANTS: Final = 10_000  # tenants whose ids are cached by name


class _KnownTenant(NamedTuple):
    generation: int  # at which it was read
    id: TenantId
    suspended_at: datetime | None


class Access:
    """Identifies the senders of requests."""

    def __init__(
        self, token: Secret | None, *, database: Database, cache: KeyCache, watch: KeyWatch, tickets: Tickets
    ) -> None:
        self._token = token
        self._database = database
        self._cache = cache
        self._watch = watch
        self._tickets = tickets
        self._tenants: dict[str, _KnownTenant] = {}

    @property
    def guarded(self) -> bool:
        """Whether a token or a key is known to be needed."""
        return self._token is not None or self._watch.any_key is True

    def check(self, request: Request) -> Principal | Awaitable[Principal]:
        """Return the sender of a request, or an awaitable of it where the database must be read.

        Raises Unauthorized without a valid token, key or ticket; Forbidden for a request that a page of another site
        caused in a browser; DatabaseUnavailable where a key cannot be checked.
        """
        headers = request.headers
        header = headers.get(b"authorization")
        if header is None:
            return self._without_header(request)
        principal = self._cache.find(header)
        if principal is None:
            if self._token is not None and holds(header, self._token):
                principal = OPERATOR
            else:
                return self._unknown(request, header)
        if b"penstock-user" in headers or b"penstock-tenant" in headers:
            return self._acting(request, principal)
        return principal

    def _without_header(self, request: Request) -> Principal | Awaitable[Principal]:
        if b"ticket=" in request.query_string and PARAMETER.search(request.query_string):
            return self._with_ticket(request)
        if self._token is not None or self._watch.any_key:
            raise Unauthorized("a key is needed: send Authorization: Bearer <key>")
        if self._watch.any_key is None:
            return self._once_known(request)
        _refuse_foreign_pages(request)
        return self._acting(request, self._anyone)

    @property
    def _anyone(self) -> Principal:
        """The sender of a request while neither a token nor a key is needed."""
        return self._watch.open_grant.principal or OPERATOR

    async def _with_ticket(self, request: Request) -> Principal:
        principal = await self._tickets.redeem(request)
        if principal.key is None and self._token is None:
            await self._watch.first_read()
            if self._watch.any_key:
                raise Unauthorized("this ticket was issued without a key, and a key is needed now")
            principal = dataclasses.replace(principal, grant=self._watch.open_grant)
        if principal.tenant != DEFAULT_TENANT:
            return await self._for_active_tenant(principal)
        return principal

    async def _for_active_tenant(self, principal: Principal) -> Principal:
        """Return the holder of a ticket. Its requests end when the ticket's tenant is suspended, even if the key that
        issued it is an operator's and stays valid."""
        name = principal.tenant_name
        if (await self._tenant(name)).suspended_at is not None:
            raise Unauthorized(SUSPENDED)
        grant = self._watch.tenants.of(name)
        if principal.grant is not None:
            grant = TwoGrants(principal.grant, grant)
        return dataclasses.replace(principal, grant=grant)

    async def _once_known(self, request: Request) -> Principal:
        """Wait for the first read of the database, which shows whether there are keys, then check the request."""
        await self._watch.first_read()
        principal = self._without_header(request)
        return principal if isinstance(principal, Principal) else await principal

    async def _unknown(self, request: Request, header: bytes) -> Principal:
        scheme, _, text = header.partition(b" ")
        key = text.strip().decode("latin-1")
        if scheme.lower() != b"bearer" or not key.startswith("ps_"):
            if self._token is None and self._watch.any_key is False:  # an open gateway does not read the header
                _refuse_foreign_pages(request)
                return await _resolved(self._acting(request, self._anyone))
            raise Unauthorized("the right token or key is needed: send Authorization: Bearer <key>")
        principal = await self._cache.check(header, key)
        return await _resolved(self._acting(request, principal))

    def _acting(self, request: Request, principal: Principal) -> Principal | Awaitable[Principal]:
        """Apply the headers by which a sender states a user, and an operator a tenant."""
        stated = request.headers.get(b"penstock-user")
        if stated is not None:
            user = stated.decode("utf-8", "replace")
            if not _USER.fullmatch(user):
                raise InvalidInput.of(
                    "Penstock-User", "must be 1 to 200 characters of UTF-8 without control characters"
                )
            principal = dataclasses.replace(principal, user=user)
        name = request.header(b"penstock-tenant")
        if name is None or name == principal.tenant_name:
            return principal
        if not principal.operator:
            raise ScopeMissing("to act for another tenant (Penstock-Tenant) this needs a key with the scope operator")
        return self._for_tenant(principal, name)

    async def _for_tenant(self, principal: Principal, name: str) -> Principal:
        if not _TENANT.fullmatch(name):
            raise InvalidInput.of("Penstock-Tenant", "is not the name of a tenant")
        tenant_id = (await self._tenant(name)).id
        return dataclasses.replace(principal, tenant=tenant_id, tenant_name=name)

    async def _tenant(self, name: str) -> _KnownTenant:
        """Return a tenant as it was at the last change that is known. Raises NotFound, WrongState."""
        known = self._tenants.get(name)
        if known is None or known.generation != self._cache.generation:
            generation = self._cache.generation
            async with self._database.acquire() as connection:
                found = await store.tenant(connection, name)
            if found is None:
                raise NotFound(f"there is no tenant {name}")
            tenant_id, tenant = found
            if tenant.deleting_since is not None:
                raise WrongState(f"the tenant {name} is being deleted")
            if len(self._tenants) >= _MAX_TENANTS:
                self._tenants.clear()
            known = self._tenants[name] = _KnownTenant(generation, tenant_id, tenant.suspended_at)
        return known


async def _resolved(principal: Principal | Awaitable[Principal]) -> Principal:
    return principal if isinstance(principal, Principal) else await principal


def _refuse_foreign_pages(request: Request) -> None:
    """Raise Forbidden for requests of other sites' pages: cross-site ones, and those to a name of such a site that
    resolves to this machine (DNS rebinding)."""
    if request.header(b"sec-fetch-site") == "cross-site":
        raise Forbidden("web pages of other sites may not call this API while neither a token nor a key is set")
    host = request.header(b"host")
    if host is not None and not _names_this_machine(host):
        raise Forbidden(
            "while neither AI_SERVICE_TOKEN nor a key is set, this API can be reached by localhost and loopback "
            f"addresses only, not to {host[:100]!r}"
        )


@lru_cache(maxsize=64)
def _names_this_machine(host: str) -> bool:
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name) or name.lower().endswith(".localhost")
