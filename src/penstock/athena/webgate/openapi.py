"""The OpenAPI description of one service, written from its document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.athena.protocol import codes
from penstock.athena.services import Service

_MAX_DEPTH: Final = 30
_HEADER: Final = {
    "type": "object",
    "required": ["code", "sid"],
    "properties": {
        "code": {"type": "integer", "description": "0: success"},
        "message": {"type": "string"},
        "sid": {"type": "string", "description": "the id of the call"},
        "status": {"type": "integer", "enum": [0, 1, 2, 3]},
    },
}
_SIGNATURE: Final = (
    ("authorization", "the signature, in base64: `api_key`, `algorithm`, `headers`, `signature`"),
    ("host", "the signed host"),
    ("date", "the signed time, as in RFC 1123"),
    ("access_token", "in place of a signature: a token of `POST /oauth2/token`"),
)


def openapi_of(service: Service) -> dict[str, Any]:
    """Return the description of a service: its calls, at its first address."""
    document = service.document
    operation = {
        "operationId": "call",
        "summary": f"Call {service.name}",
        "parameters": [
            {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}
            for name, description in _SIGNATURE
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _plain(document.given)}}},
        "responses": {
            "200": {"description": "The results", "content": _json(_response(document.returned))},
            "default": {"description": "It failed", "content": _json(_response({}))},
        },
        "x-codes": {str(one.number): one.meaning for one in codes.TABLE},
    }
    schema = service.deployment.schema
    return {
        "openapi": "3.1.0",
        "info": {
            "title": service.name,
            "version": service.deployment.model.version,
            "description": schema.description if schema is not None else "",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": {path: {"post": operation} for path in addresses_of(service)[:1]},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "x-athena": {
            "service": service.name,
            "parameter": document.service_id,
            "routes": addresses_of(service),
            "sessions": schema is not None and schema.session is not None,
            "inputs": {name: kind.value for name, kind in document.input_types.items()},
            "outputs": {name: kind.value for name, kind in document.output_types.items()},
        },
    }


def addresses_of(service: Service) -> list[str]:
    """Return the paths of a service, its own first."""
    standard = f"/v1/private/{service.name}"
    return list(dict.fromkeys([*service.document.routes, standard]))


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _response(returned: Mapping[str, Any]) -> dict[str, Any]:
    properties = returned.get("properties") if isinstance(returned.get("properties"), Mapping) else {}
    payload = properties.get("payload") if isinstance(properties, Mapping) else None
    found: dict[str, Any] = {"type": "object", "required": ["header"], "properties": {"header": _HEADER}}
    if payload is not None:
        found["properties"]["payload"] = _plain(payload)
    return found


def _plain(schema: Any, depth: int = 0) -> Any:
    """Return a schema in which Athena's keywords are those of JSON Schema."""
    if depth > _MAX_DEPTH:
        return {}
    if isinstance(schema, list):
        return [_plain(one, depth + 1) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        match name:
            case "constVal":
                found["const"] = value
            case "defaultVal":
                found["default"] = value
            case "replaceKey":
                continue
            case _:
                found[name] = _plain(value, depth + 1)
    return found
