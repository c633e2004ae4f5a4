"""Manage the credentials of Athena's clients."""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.access.http.keys import KEY_ID, sender_of
from penstock.athena.credentials.credential import AthenaKey, AthenaKeyCreation, AthenaKeyList, CreatedAthenaKey
from penstock.athena.credentials.service import CredentialService
from penstock.errors import DatabaseUnavailable, InvalidInput, NotFound, Overloaded, ScopeMissing
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import ResponseSpec, route

TAG: Final = "Athena"
_KEY_BYTES: Final = 2**18  # of a list of a hundred names
_KEY: Final = {
    "id": "3Kf0aQ9ZpL2m",
    "name": "scanner app",
    "app_id": "scanner",
    "api_key": "9eda6546894b0ab3f1d8ab4e53f5ee49",
    "services": ["ocr"],
    "created_at": "2026-11-29T12:00:00Z",
}
_CREATED: Final = {**_KEY, "api_secret": "fcc1f2699768f3373d1622e9dab9780d", "key": "ps_3Kf0aQ9ZpL2m_…"}

_creation = msgspec.json.Decoder(AthenaKeyCreation)


class CredentialRoutes:
    """The credentials of the sender's tenant."""

    def __init__(self, service: CredentialService) -> None:
        self._service = service

    @route(
        "POST",
        "/api/v1/athena/keys",
        name="createAthenaKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Create credentials of an application; their secrets are shown once",
        description=(
            "Creates a key with the scope `models:call`, limited to `services`, and beside it `api_key` and "
            "`api_secret`, with which clients of Athena Serving sign their requests."
        ),
        request=AthenaKeyCreation,
        request_example={"name": "scanner app", "app_id": "scanner", "services": ["ocr"]},
        responses={201: ResponseSpec(description="The credentials", type=CreatedAthenaKey, example=_CREATED)},
        errors=(*BODY_ERRORS, ScopeMissing, Overloaded, DatabaseUnavailable),
        max_body_bytes=_KEY_BYTES,
    )
    async def create(self, request: Request) -> Response:
        request.query({})
        created = await self._service.create(sender_of(request), await request.read(_creation))
        location = f"/api/v1/athena/keys/{created.id}".encode()
        return json_response(created, 201, [(b"location", location), (b"cache-control", b"no-store")])

    @route(
        "GET",
        "/api/v1/athena/keys",
        name="listAthenaKeys",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="List the tenant's credentials, the oldest first",
        responses={
            200: ResponseSpec(
                description="The credentials, without their secrets", type=AthenaKeyList, example={"keys": [_KEY]}
            )
        },
        errors=(InvalidInput, DatabaseUnavailable),
    )
    async def list_keys(self, request: Request) -> Response:
        request.query({})
        return json_response(AthenaKeyList(keys=await self._service.keys(request.principal.tenant)))

    @route(
        "GET",
        "/api/v1/athena/keys/{id}",
        name="getAthenaKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Get credentials, without their secrets",
        path_parameters=(KEY_ID,),
        responses={200: ResponseSpec(description="The credentials", type=AthenaKey, example=_KEY)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.key(request.principal.tenant, request.path("id")))

    @route(
        "POST",
        "/api/v1/athena/keys/{id}/revoke",
        name="revokeAthenaKey",
        tag=TAG,
        scope=scopes.TENANT_ADMIN,
        summary="Revoke a key with its credentials; their open requests end within two seconds",
        path_parameters=(KEY_ID,),
        responses={200: ResponseSpec(description="The credentials", type=AthenaKey, example=_KEY)},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def revoke(self, request: Request) -> Response:
        request.query({})
        return json_response(await self._service.revoke(sender_of(request), request.path("id")))
