"""The registry over HTTP: endpoints that list, register, remove and reload models."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.errors import (
    AlreadyExists,
    DatabaseUnavailable,
    InvalidInput,
    ModelBroken,
    ModelUnavailable,
    NotFound,
)
from penstock.models.http import examples
from penstock.models.http.parameters import BODY_ERRORS, NAME, TAG, VERSION, flag, version_of
from penstock.models.http.views import ModelPage, ModelView, summarised, whole
from penstock.models.service import ModelService
from penstock.tenants import scopes
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_REPLACE: Final = Parameter(name="replace", type=bool, description="replace the version if it is registered already")
_stated: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])


class RegistryRoutes:
    """The endpoints of the registry, on a service."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/models",
        name="listModels",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="List all models",
        responses={200: ResponseSpec(description="All of them", type=ModelPage, example=examples.PAGE)},
        errors=(InvalidInput,),
    )
    async def list_models(self, request: Request) -> Response:
        request.query({})
        entries = sorted(self._service.host.entries.values(), key=lambda entry: entry.name)
        return json_response(
            ModelPage(models=[summarised(entry) for entry in entries], problems=self._service.problems)
        )

    @route(
        "GET",
        "/api/v1/models/{name}",
        path_parameters=(NAME,),
        name="getModel",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="A model's schema, versions, replicas, load and counters",
        responses={200: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
        errors=(InvalidInput, NotFound, ModelBroken),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(whole(self._service.entry(request.path("name"))))

    @route(
        "POST",
        "/api/v1/models",
        name="addModel",
        tag=TAG,
        scope=scopes.MODELS_MANAGE,
        summary="Register a model that another server runs, or one of the server's folder by name",
        description="Runtimes `http` and `openai`; the runtime's options are in a member of its name. "
        "Models that run code come only from the operator's folder PENSTOCK_MODELS_DIR; name them without one.",
        request=dict[str, Any],
        request_example=examples.ADDITION,
        parameters=(_REPLACE,),
        responses={201: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
        errors=(*BODY_ERRORS, NotFound, AlreadyExists, ModelUnavailable, ModelBroken, DatabaseUnavailable),
    )
    async def add(self, request: Request) -> Response:
        query = request.query({"replace": False})
        stated: dict[str, Any] = await request.read(_stated)
        deployment = await self._service.add(stated, replace=flag(query, "replace"))
        name = deployment.model.name
        return json_response(whole(self._service.entry(name)), 201, [(b"location", f"/api/v1/models/{name}".encode())])

    @route(
        "DELETE",
        "/api/v1/models/{name}",
        path_parameters=(NAME,),
        name="removeModel",
        tag=TAG,
        scope=scopes.MODELS_MANAGE,
        summary="Remove a model, or one version of it; running calls are finished",
        parameters=(VERSION,),
        responses={204: ResponseSpec(description="The model is removed")},
        errors=(InvalidInput, NotFound, DatabaseUnavailable),
    )
    async def remove(self, request: Request) -> Response:
        query = request.query({"version": False})
        await self._service.remove(request.path("name"), version_of(query))
        return Response(status=204)

    @route(
        "POST",
        "/api/v1/models/{name}/reload",
        path_parameters=(NAME,),
        name="reloadModel",
        tag=TAG,
        scope=scopes.MODELS_MANAGE,
        summary="Import and load a model again; calls continue meanwhile",
        parameters=(VERSION,),
        responses={200: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
        errors=(InvalidInput, NotFound, ModelUnavailable, ModelBroken),
    )
    async def reload(self, request: Request) -> Response:
        query = request.query({"version": False})
        name = request.path("name")
        await self._service.reload(name, version_of(query))
        return json_response(whole(self._service.entry(name)))
