"""Tickets: signed texts in a URL, for browsers, whose EventSource and WebSocket cannot send headers.

A ticket is bound to the key that issued it: it has at most the key's scopes at the time of its use, and ends with it.
It may be used again until it expires, because EventSource reconnects to the same URL, unless it was issued for one use.
"""

from __future__ import annotations

import hmac
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime
from secrets import token_urlsafe
from typing import Final

import msgspec
from msgspec import Struct

from penstock.access import store
from penstock.access.instance import Instance
from penstock.access.key_cache import KeyCache
from penstock.access.ticket import Ticket, TicketCreation
from penstock.errors import ScopeMissing, Unauthorized
from penstock.masking import Secret
from penstock.postgres.pool import Database
from penstock.tenants.principal import Principal, Subject, TenantId
from penstock.web.request import Request

PARAMETER: Final = re.compile(rb"(?:^|&)ticket=([^&]*)")
_MAX_BYTES: Final = 4096
_SKEW_SECONDS: Final = 3600  # how much later a ticket may expire by the clock of another gateway
_TIDY_SECONDS: Final = 60.0  # between removals of the records of expired tickets


class _Claims(Struct, frozen=True, kw_only=True):
    """The signed content. ``key_proof`` binds a ticket without a key to the present AI_SERVICE_TOKEN."""

    id: str
    key: str
    key_proof: str
    tenant: int
    tenant_name: str
    scopes: list[str]
    expires: int  # seconds since 1970
    user: str | None = None
    subject: tuple[str, str] | None = None
    once: bool = False


class Tickets:
    """Issues and redeems tickets."""

    def __init__(self, database: Database, cache: KeyCache, instance: Instance, token: Secret | None) -> None:
        self._database = database
        self._cache = cache
        self._instance = instance
        self._secrets = instance.source
        self._token = token
        self._tidy_at = 0.0  # monotonic

    async def issue(self, sender: Principal, creation: TicketCreation) -> Ticket:
        """Issue a ticket with some of the sender's scopes.

        Raises ScopeMissing for others, and DatabaseUnavailable.
        """
        if sender.ticket:
            raise ScopeMissing("a ticket cannot issue tickets; use a key")
        for scope in creation.scopes:
            sender.require(scope)
        secret = await self._instance.secret_now()
        expires = int(time.time()) + creation.ttl_seconds
        claims = _Claims(
            id=token_urlsafe(12),
            key=sender.key or "",
            key_proof="" if sender.key else self._proof(),
            tenant=sender.tenant,
            tenant_name=sender.tenant_name,
            scopes=list(creation.scopes),
            expires=expires,
            user=creation.user or sender.user,
            subject=None if creation.subject is None else (creation.subject.kind, str(creation.subject.id)),
            once=creation.once,
        )
        body = _encode(msgspec.json.encode(claims))
        signature = hmac.digest(secret.derive("ticket"), body.encode(), "sha256")
        return Ticket(ticket=f"v1.{body}.{_encode(signature)}", expires_at=datetime.fromtimestamp(expires, UTC))

    async def redeem(self, request: Request) -> Principal:
        """Return the sender that a request's ticket identifies, and remove the ticket from the request.

        Raises Unauthorized.
        """
        match = PARAMETER.search(request.query_string)
        if match is None:
            raise Unauthorized("a key is needed: send Authorization: Bearer <key>")
        request.query_string = (request.query_string[: match.start()] + request.query_string[match.end() :]).lstrip(
            b"&"
        )
        request.by_ticket = True
        claims = self._verified(match[1])
        left = claims.expires - time.time()
        if left <= 0:
            raise Unauthorized("this ticket has expired; issue a new one")
        principal = await self._holder(claims)
        if claims.once:
            await self._use(claims.id, left)
        return principal

    async def _use(self, ticket_id: str, seconds: float) -> None:
        """Use a ticket that is valid once; raises Unauthorized if it was used before."""
        async with self._database.acquire() as connection:
            first = await store.use_ticket(connection, ticket_id, seconds + _SKEW_SECONDS)
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_SECONDS
                await store.drop_used_tickets(connection)
        if not first:
            raise Unauthorized("this ticket was already used, and is valid for one use only")

    async def _holder(self, claims: _Claims) -> Principal:
        ticket = Principal(
            tenant=TenantId(claims.tenant),
            tenant_name=claims.tenant_name,
            scopes=frozenset(claims.scopes),
            user=claims.user,
            subject=None if claims.subject is None else Subject(*claims.subject),
            ticket=True,
        )
        if not claims.key:
            if not hmac.compare_digest(claims.key_proof, self._proof()):
                raise Unauthorized("AI_SERVICE_TOKEN has changed since this ticket was issued")
            return ticket
        entry = await self._cache.by_id(claims.key)
        key = entry.grant.principal
        assert key is not None  # noqa: S101 - the entry is valid
        if key.tenant != ticket.tenant and not key.operator:
            raise Unauthorized("the key of this ticket belongs to another tenant now")
        return replace(
            ticket,
            scopes=ticket.scopes & key.scopes,
            key=key.key,
            models=key.models,
            queues=key.queues,
            apps=key.apps,
            grant=entry.grant,
        )

    def _verified(self, text: bytes) -> _Claims:
        """Return the content of a ticket whose signature is right; raises Unauthorized."""
        version, _, rest = text[:_MAX_BYTES].decode("latin-1").partition(".")
        body, _, signature = rest.partition(".")
        for secret in self._secrets.get().all() if version == "v1" else ():
            expected = hmac.digest(secret.derive("ticket"), body.encode("latin-1"), "sha256")
            if hmac.compare_digest(_encode(expected).encode(), signature.encode("latin-1")):
                return msgspec.json.decode(_decode(body), type=_Claims)
        raise Unauthorized("this is not a valid ticket")

    def _proof(self) -> str:
        """Return a value that changes with AI_SERVICE_TOKEN and does not reveal it."""
        token = "" if self._token is None else self._token.reveal()
        return hmac.digest(self._secrets.get().current.derive("ticket-token"), token.encode(), "sha256").hex()[:32]


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text.encode("ascii", "replace") + b"=" * (-len(text) % 4))
