"""The description of an engine: its parameters, its inputs and its outputs, independent of any dialect.

The description stands in a model's schema under ``x-athena``, from which the schemas of the Athena protocol are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from penstock.models.replica.aiges.kinds import NAMES, Kind

KEYWORD: Final = "x-athena"  # of the schema of a model's input

_SCALAR: Final = {"type": ["string", "number", "boolean"]}
_STATUS: Final = {"type": "integer", "enum": [0, 1, 2, 3], "default": 3}


class Parameter(Struct, kw_only=True, omit_defaults=True):
    """A parameter: a scalar, which the engine gets as text. What is None or empty is not declared."""

    key: str
    type: Literal["string", "number", "integer", "boolean"] = "string"
    title: str = ""
    description: str = ""
    required: bool = False
    enum: list[str | int | float] = []  # the allowed values; with them, other limits do not apply
    min_length: int | None = None  # characters
    max_length: int | None = None
    minimum: float | None = None  # inclusive
    maximum: float | None = None
    default: str | bool | float | None = None
    example: str | bool | float | None = None


class Data(Struct, kw_only=True, omit_defaults=True):
    """A data object: an input or an output."""

    key: str
    type: Kind = "text"
    title: str = ""
    description: str = ""
    encoding: str = ""  # as the engine expects or returns it, such as jpg, raw or utf8
    compress: str = ""
    format: str = ""  # plain, json or xml
    example: str | None = None  # text only


class Service(Struct, kw_only=True, omit_defaults=True):
    """An engine, as its code describes it."""

    name: str = ""  # the service id that its code states
    version: str = ""
    route: str = ""  # "": /{version}/private/{name}
    sub: str = "ase"
    call: str = "atmos"
    call_type: str = "0"
    hosts: str = "api.xf-yun.com"
    webgate_type: str = "0"
    parameters: list[Parameter] = []
    inputs: list[Data] = []
    outputs: list[Data] = []
    sessions: bool = False


def service_in(schema: Mapping[str, Any]) -> Service | None:
    """Return the description in the schema of a model's input; None if the model is not an engine. Raises
    msgspec.ValidationError for one that cannot be read."""
    stated = schema.get(KEYWORD)
    return None if stated is None else msgspec.convert(stated, Service)


def input_schema(service: Service) -> dict[str, Any]:
    """Return the JSON Schema of a call of the engine, with the description of the engine in it."""
    schema = part_schema(service)
    required = [one.key for one in service.parameters if one.required]
    if required:
        schema["properties"]["parameter"]["required"] = required
        schema["required"] = ["parameter"]
    return {**schema, KEYWORD: msgspec.to_builtins(service)}


def part_schema(service: Service) -> dict[str, Any]:
    """Return the JSON Schema of a part of a session: like a call, but it may omit all that earlier parts stated."""
    parameters = {one.key: parameter_schema(one) for one in service.parameters}
    expected = {one.key: _expected_schema(one) for one in service.outputs}
    return {
        "type": "object",
        "properties": {
            "header": {"type": "object", "additionalProperties": _SCALAR},
            "parameter": {
                "type": "object",
                "properties": expected | parameters,
                "additionalProperties": {"type": ["string", "number", "boolean", "object"]},
            },
            "payload": {
                "type": "object",
                "properties": {one.key: data_schema(one) for one in service.inputs},
                "additionalProperties": _any_data(),
            },
        },
        "additionalProperties": False,
    }


def output_schema(service: Service) -> dict[str, Any]:
    """Return the JSON Schema of a result of the engine, or of a chunk of a session."""
    outputs = {one.key: data_schema(one) for one in service.outputs}
    payload = {"type": "object", "properties": outputs, "additionalProperties": _any_data()}
    return {"type": "object", "properties": {"payload": payload}, "required": ["payload"]}


def parameter_schema(one: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": one.type}
    limits = {
        "enum": one.enum or None,
        "minLength": one.min_length,
        "maxLength": one.max_length,
        "minimum": one.minimum,
        "maximum": one.maximum,
        "title": one.title or None,
        "description": one.description or None,
        "default": one.default,
        "examples": None if one.example is None else [one.example],
    }
    return schema | {name: value for name, value in limits.items() if value is not None}


def _expected_schema(one: Data) -> dict[str, Any]:
    return {"type": "object", "description": f"attributes of the expected output {one.key}"}


def data_schema(one: Data) -> dict[str, Any]:
    value: dict[str, Any] = _value_schema(one.type)
    if one.example is not None:
        value = value | {"examples": [one.example]}
    schema = _of_data({one.type: value}) | {"required": [one.type]}
    stated = {"title": one.title or None, "description": one.description or None}
    for name, default in (("encoding", one.encoding), ("compress", one.compress), ("format", one.format)):
        if default:
            schema["properties"][name] = {"type": "string", "examples": [default]}
    return schema | {name: text for name, text in stated.items() if text is not None}


def _any_data() -> dict[str, Any]:
    """Return the schema of a data object that the engine does not declare."""
    return _of_data({kind: _value_schema(kind) for kind in NAMES})


def _of_data(values: dict[str, Any]) -> dict[str, Any]:
    properties = values | {"status": _STATUS, "seq": {"type": "integer", "minimum": 0}}
    return {"type": "object", "properties": properties, "additionalProperties": _SCALAR}


def _value_schema(kind: Kind) -> dict[str, Any]:
    if kind == "text":
        return {"type": "string"}  # text that is not UTF-8 comes as media in this place
    return {"type": "string", "format": "media"}
