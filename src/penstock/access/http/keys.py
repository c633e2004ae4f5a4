"""Manage the keys of a tenant."""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.access.audit import Sender
from penstock.access.key import CreatedKey, Identity, Key, KeyChange, KeyCreation, KeyList, KeyRotation
from penstock.access.service import AccessService
from penstock.access.ticket import Ticket, TicketCreation
from penstock.access.tickets import Tickets
from penstock.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    Overloaded,
    ScopeMissing,
    WrongState,
)
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import PathParameter, ResponseSpec, route

TAG: Final = "Tenants and keys"
KEY_ID: Final = PathParameter(name="id", description="the key's id: 12 letters and digits")
_KEY_BYTES: Final = 2**19  # of three lists of a hundred names
_CREATION: Final = {"name": "billing service", "scopes": ["jobs:submit", "jobs:read"]}
_KEY: Final = {
    "id": "3Kf0aQ9ZpL2m",
    "name": "billing service",
    "scopes": ["jobs:read", "jobs:submit"],
    "created_at": "2026-11-29T12:00:00Z",
    "created_by": None,
}
_CREATED: Final = {**_KEY, "key": "ps_3Kf0aQ9ZpL2m_…"}
_IDENTITY: Final = {"tenant": "default", "key": "3Kf0aQ9ZpL2m", "scopes": ["jobs:read", "jobs:submit"], "user": "ada"}
_TICKET: Final = {"scopes": ["jobs:read"], "subject": {"kind": "job", "id": "01990000-0000-7000-8000-000000000007"}}
_LIST: Final = {"keys": [_KEY]}
_ISSUED: Final = {"ticket": "v1.…", "expires_at": "2026-11-29T12:01:00Z"}

_creation = msgspec.json.Decoder(KeyCreation)
_change = msgspec.json.Decoder(KeyChange)
_rotation = msgspec.json.Decoder(KeyRotation)
_ticket = msgspec.json.Decoder(TicketCreation)


class KeyRoutes:
    """The keys of the sender's tenant, and tickets."""

    def __init__(self, service: AccessService, tickets: Tickets) -> None:
        self._service = service
        self._tickets = tickets

    @route(
        "POST",
        "/api/v1/keys",
        name="createKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Create a key; its text is shown once",
        description="A key gives at most the rights of the key that creates it.",
        request=KeyCreation,
        request_example=_CREATION,
        responses={201: ResponseSpec(description="The key, with its text", type=CreatedKey, example=_CREATED)},
        errors=(*BODY_ERRORS, ScopeMissing, Overloaded, DatabaseUnavailable),
        max_body_bytes=_KEY_BYTES,
    )
    async def create(self, request: Request) -> Response:
        request.query({})
        created = await self._service.create_key(sender_of(request), await request.read(_creation))
        return json_response(created, 201, [(b"location", f"/api/v1/keys/{created.id}".encode()), _NOT_STORED])

    @route(
        "GET",
        "/api/v1/keys",
        name="listKeys",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="List the tenant's keys, the oldest first",
        responses={200: ResponseSpec(description="The keys, without their texts", type=KeyList, example=_LIST)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_keys(self, request: Request) -> Response:
        request.query({})
        return json_response(KeyList(keys=await self._service.keys(request.principal.tenant)))

    @route(
        "GET",
        "/api/v1/keys/{id}",
        name="getKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Get a key, without its text",
        path_parameters=(KEY_ID,),
        responses={200: ResponseSpec(description="The key", type=Key, example=_KEY)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.key(request.principal.tenant, request.path("id")))

    @route(
        "PATCH",
        "/api/v1/keys/{id}",
        name="changeKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Change a key; open requests that it no longer allows end within two seconds",
        path_parameters=(KEY_ID,),
        request=KeyChange,
        request_example={"scopes": ["jobs:read"]},
        responses={200: ResponseSpec(description="The key", type=Key, example=_KEY)},
        errors=(*BODY_ERRORS, NotFound, WrongState, ScopeMissing, DatabaseUnavailable),
        max_body_bytes=_KEY_BYTES,
    )
    async def change(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_change)
        return json_response(await self._service.change_key(sender_of(request), request.path("id"), wanted))

    @route(
        "POST",
        "/api/v1/keys/{id}/revoke",
        name="revokeKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Revoke a key; its open requests end within two seconds",
        path_parameters=(KEY_ID,),
        responses={200: ResponseSpec(description="The key", type=Key, example=_KEY)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def revoke(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.revoke_key(sender_of(request), request.path("id")))

    @route(
        "POST",
        "/api/v1/keys/{id}/rotate",
        name="rotateKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Replace a key with a new one that has the same rights; the old one expires after an overlap",
        path_parameters=(KEY_ID,),
        request=KeyRotation,
        request_example={"overlap_seconds": 86400},
        responses={201: ResponseSpec(description="The new key, with its text", type=CreatedKey, example=_CREATED)},
        errors=(*BODY_ERRORS, NotFound, WrongState, ScopeMissing, Overloaded, DatabaseUnavailable),
    )
    async def rotate(self, request: Request) -> Response:
        request.query({})
        rotation = await request.read(_rotation)
        created = await self._service.rotate_key(sender_of(request), request.path("id"), rotation)
        return json_response(created, 201, [(b"location", f"/api/v1/keys/{created.id}".encode()), _NOT_STORED])

    @route(
        "GET",
        "/api/v1/identity",
        name="getIdentity",
        tag=TAG,
        scope=scopes.ANY,
        summary="Get the sender of this request: its tenant, key and scopes",
        responses={200: ResponseSpec(description="The sender", type=Identity, example=_IDENTITY)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def identity(self, request: Request) -> Response:
        request.query({})
        principal = request.principal
        return json_response(
            Identity(
                tenant=principal.tenant_name,
                key=principal.key,
                scopes=sorted(principal.scopes),
                user=principal.user,
                models=_sorted(principal.models),
                queues=_sorted(principal.queues),
                apps=_sorted(principal.apps),
            )
        )

    @route(
        "POST",
        "/api/v1/tickets",
        name="issueTicket",
        tag=TAG,
        scope=scopes.ANY,
        summary="Issue a ticket for a URL, for browsers whose EventSource or WebSocket cannot send headers",
        description=(
            "Send it as the query parameter `ticket`. It has some of your scopes, ends with your key, and can be used "
            "again until it expires, unless it is issued for one use."
        ),
        request=TicketCreation,
        request_example=_TICKET,
        responses={201: ResponseSpec(description="The ticket", type=Ticket, example=_ISSUED)},
        errors=(*BODY_ERRORS, ScopeMissing, DatabaseUnavailable),
    )
    async def issue_ticket(self, request: Request) -> Response:
        request.query({})
        ticket = await self._tickets.issue(request.principal, await request.read(_ticket))
        return json_response(ticket, 201, [_NOT_STORED])


_NOT_STORED: Final = (b"cache-control", b"no-store")


def sender_of(request: Request) -> Sender:
    """Return the sender of a request as the audit log records it."""
    return Sender(principal=request.principal, address=request.client)


def _sorted(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
