"""Routes that read and set quotas."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from penstock.access.http.keys import sender_of
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, Overloaded
from penstock.quotas.quota import Name, Quota, QuotaList, QuotaSetting
from penstock.quotas.service import QuotaService
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, PathParameter, ResponseSpec, route

TAG: Final = "Quotas"
_ID: Final = PathParameter(name="id", type=UUID, description="the quota's id")
_SETTING: Final = {"measure": "jobs", "per": "day", "limit": 10000, "user": "*"}
_QUOTA: Final = {
    "id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "measure": "calls",
    "limit": 600,
    "on_crash": "free",
    "per": "minute",
    "used": 41,
    "reserved": 4,
}

_setting = msgspec.json.Decoder(QuotaSetting)


class _Query(Struct, frozen=True, kw_only=True):
    user: Name | None = None


class QuotaRoutes:
    """The quotas of the sender's tenant."""

    def __init__(self, service: QuotaService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/quotas",
        name="listQuotas",
        tag=TAG,
        scope=scopes.USAGE_READ,
        summary="List the tenant's quotas: limits, amounts used and reserved, and times of reset",
        parameters=(Parameter(name="user", type=Name, description="whose use to show for quotas of every user"),),
        responses={200: ResponseSpec(description="The quotas", type=QuotaList, example={"quotas": [_QUOTA]})},
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_quotas(self, request: Request) -> Response:
        wanted = request.query_as(_Query)
        found = await self._service.quotas(request.principal.tenant, user=wanted.user or request.principal.user)
        return json_response(QuotaList(quotas=found))

    @route(
        "PUT",
        "/api/v1/quotas",
        name="setQuota",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Set a quota, for a tenant (Penstock-Tenant), one of its keys, or its users",
        description="There is one quota for each measure, window, and key or user; setting it again changes its limit.",
        request=QuotaSetting,
        request_example=_SETTING,
        responses={200: ResponseSpec(description="The quota", type=Quota, example=_QUOTA)},
        errors=(*BODY_ERRORS, Overloaded, DatabaseUnavailable),
    )
    async def put(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.put(sender_of(request), await request.read(_setting)))

    @route(
        "DELETE",
        "/api/v1/quotas/{id}",
        name="removeQuota",
        tag=TAG,
        scope=scopes.OPERATOR,
        summary="Remove a quota, with all that was counted for it",
        path_parameters=(_ID,),
        responses={204: ResponseSpec(description="It is removed")},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def remove(self, request: Request) -> Response:
        request.query({})
        await self._service.remove(sender_of(request), request.path_values["id"])
        return Response(status=204)
