"""The OpenAPI 3.1 document, written from the routes' declarations and the types on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from uuid import UUID

import msgspec

from penstock.errors import Forbidden, PenstockError, Unauthorized
from penstock.web import problems
from penstock.web.route import Parameter, PathParameter, Route

_DESCRIPTION = """One backend for AI models: call them live, stream from them, or give them durable jobs. Callers submit
jobs and read results; workers claim jobs, keep their leases by heartbeats and hand in results. Errors are problem
details (RFC 9457) with a stable `code`. An answer repeats the `X-Request-ID` of its request."""


def document(routes: Sequence[Route], *, secured: bool) -> bytes:
    """The document as JSON."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(
        [*types, problems.Problem], ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(map(_key, types), schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version("penstock"), "description": _DESCRIPTION, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "AI_SERVICE_TOKEN"}},
        },
    }
    if secured:
        described["security"] = [{"token": []}]
    return msgspec.json.encode(described)


_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
_UPLOAD = {
    "*/*": {"schema": {}},
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]},
    },
}


_MEDIA = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "Media as files, other fields as text; or as one JSON object in the part `input`.",
            "properties": {"input": {"type": "object"}},
            "additionalProperties": True,
        }
    },
    "application/octet-stream": {"schema": {"description": "The bytes of the one media that the model takes."}},
}


def _key(wire_type: Any) -> str:
    return repr(wire_type)


def _types(routes: Sequence[Route]) -> list[Any]:
    found: dict[str, Any] = {}
    for route in routes:
        for wire_type in (
            route.request,
            *(response.type for response in route.responses.values()),
            *(parameter.type for parameter in route.parameters),
        ):
            if wire_type is not None:
                found.setdefault(_key(wire_type), wire_type)
    return list(found.values())


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    if route.description:
        operation["description"] = route.description
    parameters = [_parameter(parameter, schemas) for parameter in route.parameters]
    parameters = [*map(_path_parameter, route.path_parameters), *parameters]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        media: dict[str, Any] = {"schema": schemas[_key(route.request)]}
        if route.request_example is not None:
            media["example"] = route.request_example
        also = _MEDIA if route.takes_media else {}
        operation["requestBody"] = {"required": True, "content": {"application/json": media, **also}}
    if route.uploads:
        operation["requestBody"] = {"required": True, "content": _UPLOAD}
    if route.open:
        operation["security"] = []
    return operation


def _path_parameter(parameter: PathParameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "path",
        "required": True,
        "description": parameter.description,
        "schema": {"type": "string", "format": "uuid"} if parameter.type is UUID else {"type": "string"},
    }


def _parameter(parameter: Parameter, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": _without_null(schemas[_key(parameter.type)]),
    }
    if parameter.repeated:
        described |= {"style": "form", "explode": True}
    return described


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter has no null: it is left out instead."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _responses(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, response in route.responses.items():
        described: dict[str, Any] = {"description": response.description}
        if response.type is not None or response.media_type != "application/json":
            media = {"schema": schemas[_key(response.type)] if response.type is not None else {}}
            if response.example is not None:
                media["example"] = response.example
            described["content"] = {response.media_type: media, **{kind: {"schema": {}} for kind in response.also}}
        responses[str(status)] = described
    always: tuple[type[PenstockError], ...] = () if route.open else (Unauthorized, Forbidden)
    grouped: dict[int, list[type[PenstockError]]] = {}
    for error in (*route.errors, *always):
        grouped.setdefault(problems.status_of(error)[0], []).append(error)
    for status, classes in sorted(grouped.items()):
        responses[str(status)] = {
            "description": " ".join(str(error.__doc__) for error in classes),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {error.code: {"value": problems.schema_example(error)} for error in classes},
                }
            },
        }
    return responses
