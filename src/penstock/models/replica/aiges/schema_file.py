"""The file that describes an engine whose code cannot: in the dialect of Athena Serving, or as a schema of Penstock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.failures import CallFailed, Category
from penstock.models.replica.aiges import fields, kinds
from penstock.models.replica.aiges.fields import Service
from penstock.models.replica.runtime import Schema, SessionSchema, Spec

FILE_NAME: Final = "schema.json"
_MAX_BYTES: Final = 2**20
_ATHENA: Final = {"meta", "schemainput", "schemaoutput"}  # keys of the dialect
_TYPES: Final = ("string", "number", "integer", "boolean")
_META: Final = ("version", "sub", "call", "call_type", "hosts", "webgate_type")
_LIMITS: Final = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minimum": "minimum",
    "maximum": "maximum",
    "enum": "enum",
    "title": "title",
    "description": "description",
}


def stated(spec: Spec, *, version: str = "") -> Schema | None:
    """Return the schema of an engine by the file that describes it, or by its manifest; None where neither does.

    Raises CallFailed (``unavailable``) for a file that cannot be used.
    """
    own, name = spec.schema, spec.options.get("schema")
    path = spec.folder / (name or FILE_NAME)
    if name is not None or path.is_file():
        try:
            return schema_in(_content(path), spec, version=version)
        except ValueError as error:
            raise CallFailed(Category.UNAVAILABLE, f"{path.name} does not describe an engine: {error}") from None
    return own if own.input or own.output or own.session is not None else None


def schema_in(content: bytes | str, spec: Spec, *, version: str = "") -> Schema:
    """Return the schema that a document states, in either dialect. Raises ValueError."""
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(document, dict):
        raise ValueError("it must be a JSON object")
    try:
        if not document.keys() & _ATHENA:
            return msgspec.convert(document, Schema)
        service = service_of(document, name=spec.name, version=version, sessions=_takes_sessions(spec))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return schema_of(service, description=spec.schema.description)


def any_engine(spec: Spec, *, version: str = "") -> Schema:
    """Return the schema of an engine that nothing describes: it takes and returns any data."""
    service = Service(name=spec.name, version=version, sessions=_takes_sessions(spec))
    return schema_of(service, description=spec.schema.description)


def _takes_sessions(spec: Spec) -> bool:
    return bool(spec.options.get("sessions", False))


def schema_of(service: Service, *, description: str = "") -> Schema:
    """Return the schema of an engine's model."""
    given, returned = fields.input_schema(service), fields.output_schema(service)
    session = SessionSchema(input=given, part=fields.part_schema(service), output=returned)
    return Schema(input=given, output=returned, description=description, session=session if service.sessions else None)


def service_in(schema: Schema, *, name: str) -> Service:
    """Return the engine that a schema of Penstock describes: the parameters and data objects that it names. An engine
    whose schema names none, or in a form that cannot be read, declares nothing; its schema holds all the same."""
    sessions = schema.session is not None
    try:
        given = _object(schema.input, "properties")
        given = {**given, "parameter": {"properties": {name: _object(given, "parameter")}}}
        document = {"schemainput": {"properties": given}, "schemaoutput": schema.output}
        return service_of(document, name=name, sessions=sessions)
    except ValueError:  # msgspec.ValidationError is one
        return Service(name=name, sessions=sessions)


def service_of(document: Mapping[str, Any], *, name: str, version: str = "", sessions: bool = False) -> Service:
    """Return the engine that a document in the dialect of Athena Serving describes; ``name`` and ``version`` are for
    one that states none. Raises ValueError and msgspec.ValidationError."""
    meta = _object(document, "meta")
    service = meta.get("serviceId") or name
    if not isinstance(service, str):
        raise ValueError("meta.serviceId must be a string")
    given = _object(_object(document, "schemainput"), "properties")
    returned = _object(_object(document, "schemaoutput"), "properties")
    parameter = _object(_object(_object(given, "parameter"), "properties"), service)
    parameters, required = _object(parameter, "properties"), parameter.get("required")
    scalars = [(key, one) for key, one in parameters.items() if isinstance(one, dict) and one.get("type") in _TYPES]
    kinds_of = _object(meta, service)
    route = meta.get("route", "")
    return msgspec.convert(
        {
            "version": version,
            **{key: str(meta[key]) for key in _META if key in meta},
            "name": service,
            "route": route[0] if isinstance(route, list) and route else route,
            "sessions": sessions,
            "parameters": [_parameter(key, one, required) for key, one in scalars],
            "inputs": _data(_payload(given), _object(kinds_of, "input"), {}),
            "outputs": _data(_payload(returned), _object(kinds_of, "accept"), parameters),
        },
        Service,
    )


def _parameter(key: str, stated: Mapping[str, Any], required: Any) -> dict[str, Any]:
    required = isinstance(required, list) and key in required
    limits = {name: stated[written] for written, name in _LIMITS.items() if written in stated}
    default = stated.get("default", stated.get("defaultVal"))
    return {"key": key, "type": stated["type"], "required": required, "default": default, **limits}


def _data(stated: Mapping[str, Any], kinds_of: Mapping[str, Any], expected: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the data objects that are described in a payload or in the meta data."""
    found = []
    for key in dict.fromkeys([*stated, *kinds_of]):
        properties = _object(_object(stated, key), "properties")
        of_meta = _object(kinds_of, key).get("dataType")
        kind = of_meta or next((name for name in kinds.NAMES if name in properties), "text")
        attributes = {**properties, **_object(_object(expected, key), "properties")}
        found.append({"key": key, "type": kind, **_attributes(attributes)})
    return found


def _attributes(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of attributes where the description allows one only, or has a default."""
    found = {}
    for name in ("encoding", "compress", "format"):
        stated = _object(properties, name)
        allowed = stated.get("enum")
        only = allowed[0] if isinstance(allowed, list) and len(allowed) == 1 else None
        preferred = stated.get("default", stated.get("defaultVal", only))
        if isinstance(preferred, str):
            found[name] = preferred
    return found


def _payload(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return _object(_object(properties, "payload"), "properties")


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a value that is an object; an empty one where it is missing. Raises ValueError."""
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object")
    return value


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CallFailed(Category.UNAVAILABLE, f"{path.name} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise CallFailed(Category.UNAVAILABLE, f"{path.name} has more than {_MAX_BYTES} bytes")
    return content
