"""Manage tenants, and read the audit log."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from penstock.access.audit import AuditPage
from penstock.access.http.keys import TAG, sender_of
from penstock.access.key import TENANT_PATTERN, Tenant, TenantChange, TenantCreation, TenantList, Text
from penstock.access.service import AccessService
from penstock.errors import AlreadyExists, DatabaseUnavailable, InvalidInput, NotFound, WrongState
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

_NAME: Final = PathParameter(name="name", description=f"the tenant's name: {TENANT_PATTERN}")
_TENANT: Final = {"name": "acme", "time_zone": "Europe/Berlin", "created_at": "2026-11-29T12:00:00Z"}
_DELETING: Final = _TENANT | {"suspended_at": "2026-11-29T13:00:00Z", "deleting_since": "2026-11-29T13:05:00Z"}
_PAGE: Final = {
    "actions": [
        {
            "id": 7,
            "at": "2026-11-29T12:00:00Z",
            "key_id": None,
            "user_id": "ada",
            "address": "127.0.0.1",
            "action": "tenant.change",
            "subject": "acme",
            "before": {"suspended": False},
            "after": {"suspended": True},
        }
    ],
    "next": 7,
}
_Number = Annotated[int, Meta(ge=1, le=2**62)]
_Limit = Annotated[int, Meta(ge=1, le=1000)]
_LIMIT: Final = Parameter(name="limit", type=_Limit, description="the maximum number to return, by default 100")


class _TenantQuery(Struct, frozen=True, kw_only=True):
    after: Text = ""
    limit: _Limit = 100


class _DeletionQuery(Struct, frozen=True, kw_only=True):
    with_usage: bool = False


class _AuditQuery(Struct, frozen=True, kw_only=True):
    before: _Number = 2**62
    action: Text | None = None
    subject: Text | None = None
    limit: _Limit = 100


_creation = msgspec.json.Decoder(TenantCreation)
_change = msgspec.json.Decoder(TenantChange)


class TenantRoutes:
    """All tenants, for operators; and the audit log of the sender's tenant."""

    def __init__(self, service: AccessService) -> None:
        self._service = service

    @route(
        "POST",
        "/api/v1/tenants",
        name="createTenant",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Create a tenant",
        description="Create its keys with the header `Penstock-Tenant: NAME`.",
        request=TenantCreation,
        request_example={"name": "acme", "time_zone": "Europe/Berlin"},
        responses={201: ResponseSpec(description="The tenant", type=Tenant, example=_TENANT)},
        errors=(*BODY_ERRORS, AlreadyExists, DatabaseUnavailable),
    )
    async def create(self, request: Request) -> Response:
        request.query({})
        created = await self._service.create_tenant(sender_of(request), await request.read(_creation))
        return json_response(created, 201, [(b"location", f"/api/v1/tenants/{created.name}".encode())])

    @route(
        "GET",
        "/api/v1/tenants",
        name="listTenants",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="List tenants by name",
        parameters=(Parameter(name="after", type=Text, description="those after this name"), _LIMIT),
        responses={200: ResponseSpec(description="Tenants", type=TenantList, example={"tenants": [_TENANT]})},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_tenants(self, request: Request) -> Response:
        wanted = request.query_as(_TenantQuery)
        found = await self._service.tenants(after=wanted.after, at_most=wanted.limit)
        return json_response(TenantList(tenants=found))

    @route(
        "GET",
        "/api/v1/tenants/{name}",
        name="getTenant",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Get a tenant",
        path_parameters=(_NAME,),
        responses={200: ResponseSpec(description="The tenant", type=Tenant, example=_TENANT)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.tenant(request.path("name")))

    @route(
        "PATCH",
        "/api/v1/tenants/{name}",
        name="changeTenant",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Change, suspend or resume a tenant",
        description="While a tenant is suspended, its keys are not valid; its open requests end within two seconds.",
        path_parameters=(_NAME,),
        request=TenantChange,
        request_example={"suspended": True},
        responses={200: ResponseSpec(description="The tenant", type=Tenant, example=_TENANT)},
        errors=(*BODY_ERRORS, NotFound, WrongState, DatabaseUnavailable),
    )
    async def change(self, request: Request) -> Response:
        request.query({})
        wanted = await request.read(_change)
        return json_response(await self._service.change_tenant(sender_of(request), request.path("name"), wanted))

    @route(
        "DELETE",
        "/api/v1/tenants/{name}",
        name="deleteTenant",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Delete a suspended tenant with all that it owns",
        description=(
            "Its jobs, files, keys, models, quotas and callbacks are removed in the background; running jobs are "
            "cancelled, and end within a minute. Sums of usage are kept, for billing, unless `with_usage` is stated. "
            "The tenant is listed, and its name cannot be used, until nothing is left."
        ),
        path_parameters=(_NAME,),
        parameters=(Parameter(name="with_usage", type=bool, description="`true`: its sums of usage are deleted too"),),
        responses={202: ResponseSpec(description="The tenant is being deleted", type=Tenant, example=_DELETING)},
        errors=(InvalidInput, NotFound, WrongState, DatabaseUnavailable),
    )
    async def delete(self, request: Request) -> Response:
        wanted = request.query_as(_DeletionQuery)
        name = request.path("name")
        deleting = await self._service.delete_tenant(sender_of(request), name, with_usage=wanted.with_usage)
        return json_response(deleting, 202)

    @route(
        "GET",
        "/api/v1/audit",
        name="listAudit",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Read the tenant's audit log: who managed what, when and from where; the newest first",
        parameters=(
            Parameter(name="before", type=_Number, description="actions before this id: the `next` of a page"),
            Parameter(name="action", type=Text, description="only actions of this kind, such as `key.create`"),
            Parameter(name="subject", type=Text, description="only actions on this id or name"),
            _LIMIT,
        ),
        responses={200: ResponseSpec(description="Actions", type=AuditPage, example=_PAGE)},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def audit(self, request: Request) -> Response:
        wanted = request.query_as(_AuditQuery)
        page = await self._service.audit(
            request.principal.tenant,
            before=wanted.before,
            action=wanted.action,
            subject=wanted.subject,
            at_most=wanted.limit,
        )
        return json_response(page)
