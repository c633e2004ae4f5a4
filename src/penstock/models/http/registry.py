"""The registry over HTTP: endpoints that list, register, remove and reload models."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock.access.http.keys import sender_of
from penstock.errors import (
    AlreadyExists,
    DatabaseUnavailable,
    InvalidInput,
    ModelBroken,
    ModelUnavailable,
    NotFound,
    ScopeMissing,
)
from penstock.models.http import examples
from penstock.models.http.parameters import NAME, TAG, VERSION, flag, reader_of, version_of
from penstock.models.http.views import ModelPage, ModelView, summarised, whole
from penstock.models.reader import Reader
from penstock.models.service import ModelService
from penstock.tenants import scopes
from penstock.web.reading import BODY_ERRORS
from penstock.web.request import Request
from penstock.web.response import Response, json_response
from penstock.web.route import Parameter, ResponseSpec, route

_REPLACE: Final = Parameter(name="replace", type=bool, description="replace the version if it is registered already")
_ALL_TENANTS: Final = Parameter(name="all_tenants", type=bool, description="operators: the models of all tenants")
_stated: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])


class RegistryRoutes:
    """The registry of the models of a service."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    @route(
        "GET",
        "/api/v1/models",
        name="listModels",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="List the models that the sender can call",
        parameters=(_ALL_TENANTS,),
        responses={200: ResponseSpec(description="All of them", type=ModelPage, example=examples.PAGE)},
        errors=(InvalidInput,),
    )
    async def list_models(self, request: Request) -> Response:
        reader = reader_of(request)
        if flag(request.query({"all_tenants": False}), "all_tenants"):
            request.principal.require(scopes.OPERATOR)
            everything = sorted(self._service.host.entries.values(), key=lambda one: (one.name, one.owner or ""))
            models = [summarised(entry, Reader(tenant=entry.owner)) for entry in everything]
        else:
            models = [summarised(entry, reader) for entry in self._service.entries(reader)]
        problems = self._service.problems if reader.tenant is None and reader.models is None else {}
        return json_response(ModelPage(models=models, problems=problems))

    @route(
        "GET",
        "/api/v1/models/{name}",
        path_parameters=(NAME,),
        name="getModel",
        tag=TAG,
        scope=scopes.MODELS_CALL,
        summary="Get a model's schema, versions, replicas, load and counters",
        responses={200: ResponseSpec(description="The model", type=ModelView, example=examples.MODEL)},
        errors=(InvalidInput, NotFound, ModelBroken),
    )
    async def get(self, request: Request) -> Response:
        request.query({})
        return json_response(self._whole(request, request.path("name")))

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
        deployment = await self._service.add(
            stated, replace=flag(query, "replace"), reader=reader_of(request), sender=sender_of(request)
        )
        name = deployment.model.name
        return json_response(self._whole(request, name), 201, [(b"location", f"/api/v1/models/{name}".encode())])

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
        errors=(InvalidInput, NotFound, ScopeMissing, DatabaseUnavailable),
    )
    async def remove(self, request: Request) -> Response:
        query = request.query({"version": False})
        await self._service.remove(
            request.path("name"), version_of(query), reader_of(request), sender=sender_of(request)
        )
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
        errors=(InvalidInput, NotFound, ScopeMissing, ModelUnavailable, ModelBroken, DatabaseUnavailable),
    )
    async def reload(self, request: Request) -> Response:
        query = request.query({"version": False})
        name = request.path("name")
        await self._service.reload(name, version_of(query), reader_of(request), sender=sender_of(request))
        return json_response(self._whole(request, name))

    def _whole(self, request: Request, name: str) -> ModelView:
        reader = reader_of(request)
        return whole(self._service.entry(name, reader), reader)
