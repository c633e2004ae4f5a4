"""The OpenAPI 3.1 document, written from the routes' declarations and the types on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from penstock.errors import Forbidden, PenstockError, ScopeMissing, Unauthorized
from penstock.tenants import scopes
from penstock.web import problems
from penstock.web.route import AnyRoute, Parameter, PathParameter, Route


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The document's description of the API as a whole."""

    title: str
    version: str
    description: str
    license: dict[str, str]  # name and SPDX identifier
    bearer_setting: str  # describes what the bearer token may be


def document(routes: Sequence[AnyRoute], about: About, *, secured: bool) -> bytes:
    """Return the document as JSON. WebSockets appear as the GET that opens them."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(
        [*types, problems.Problem], ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(map(_key, types), schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, secured=secured)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "version": about.version,
            "description": about.description,
            "license": about.license,
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": about.bearer_setting}},
        },
    }
    return msgspec.json.encode(described)


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
            "description": "Media as files, and the other fields as texts or as one JSON object in the part `input`.",
            "properties": {"input": {"type": "object"}},
            "additionalProperties": True,
        }
    },
    "application/octet-stream": {"schema": {"description": "The bytes of the one file that the model takes."}},
}


def _key(wire_type: Any) -> str:
    return repr(wire_type)


def _types(routes: Sequence[AnyRoute]) -> list[Any]:
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


def _operation(route: AnyRoute, schemas: dict[str, Any], *, secured: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    needs = f"Needs the scope `{route.scope}`." if route.scope in scopes.MEANINGS else ""
    if route.description or needs:
        operation["description"] = "\n\n".join(filter(None, (route.description, needs)))
    parameters = [_parameter(parameter, schemas) for parameter in route.parameters]
    parameters = [*map(_path_parameter, route.path_parameters), *parameters]
    if parameters:
        operation["parameters"] = parameters
    content = _request_content(route, schemas) if isinstance(route, Route) else None
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    if route.scope is None:
        operation["security"] = []
    elif secured:
        operation["security"] = [{"token": [] if route.scope == scopes.ANY else [route.scope]}]
    return operation


def _request_content(route: Route, schemas: dict[str, Any]) -> dict[str, Any] | None:
    """Return the media types that a route takes; None if it takes no body."""
    if route.uploads:
        return _UPLOAD
    if route.request is None:
        return None
    media: dict[str, Any] = {"schema": schemas[_key(route.request)]}
    if route.request_example is not None:
        media["example"] = route.request_example
    return {"application/json": media, **(_MEDIA if route.takes_media else {})}


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
    """Remove null from a parameter's schema: an absent parameter is left out of the query."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _responses(route: AnyRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, response in route.responses.items():
        described: dict[str, Any] = {"description": response.description}
        if response.type is not None or response.media_type != "application/json":
            media = {"schema": schemas[_key(response.type)] if response.type is not None else {}}
            if response.example is not None:
                media["example"] = response.example
            described["content"] = {response.media_type: media, **{kind: {"schema": {}} for kind in response.also}}
        responses[str(status)] = described
    always: tuple[type[PenstockError], ...] = () if route.open else (Unauthorized, Forbidden, ScopeMissing)
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
