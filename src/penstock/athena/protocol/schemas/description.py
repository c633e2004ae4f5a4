"""Descriptions of services in no dialect, made from what an engine declares or from a model's JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.athena.protocol.data import DataType
from penstock.athena.protocol.media import encoding_of
from penstock.athena.protocol.members import Member, Role, alternatives_of, members_of
from penstock.athena.protocol.model_calls import RESULT
from penstock.errors import InvalidInput
from penstock.models.replica.aiges.fields import KEYWORD, Data, Parameter, Service, service_in

_MAX_DEPTH: Final = 30  # levels of a schema that are written out
_NOT_WRITTEN: Final = frozenset({"x-payload", "$defs", "definitions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterOf:
    """A parameter of a service."""

    key: str
    schema: Mapping[str, Any]  # JSON Schema of its value, without references
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOf:
    """A data object that a service takes or returns."""

    key: str
    type: DataType
    encoding: str = ""  # preferred values; empty: none is
    compress: str = ""
    format: str = ""
    title: str = ""
    description: str = ""
    example: str = ""
    required: bool = False
    many: bool = False  # the first of several: its name ends in _1, those of others in _2, _3, …


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A service."""

    name: str
    version: str = "v1"
    route: str = ""
    sub: str = "ase"
    call: str = "atmos"
    call_type: str = "0"
    hosts: str = "api.xf-yun.com"
    webgate_type: str = "0"
    parameters: Sequence[ParameterOf] = ()
    inputs: Sequence[DataOf] = ()
    outputs: Sequence[DataOf] = ()
    sessions: bool = False

    @property
    def path(self) -> str:
        """The route of the service."""
        return self.route or f"/{self.version}/private/{self.name}"


def of_schema(
    input: Mapping[str, Any],  # noqa: A002 - as in the schema of a model
    output: Mapping[str, Any],
    *,
    name: str,
    version: str = "v1",
    sessions: bool = False,
) -> Description:
    """Return the description of a model, which is an engine if the schema of its input says so. Raises InvalidInput
    for an engine whose description cannot be read."""
    try:
        engine = service_in(input)
    except msgspec.ValidationError as error:
        raise InvalidInput.of(KEYWORD, str(error)) from None
    if engine is not None:
        return of_engine(engine, name=name, version=version)
    stated = f"v{version}" if version[:1].isdigit() else version
    return of_model(name=name, version=stated, input=input, output=output, sessions=sessions)


def of_engine(service: Service, *, name: str = "", version: str = "") -> Description:
    """Return the description of an engine. ``name`` and ``version`` are those of its model, for an engine that states
    none itself."""
    return Description(
        name=service.name or name,
        version=service.version or version or "v1",
        route=service.route,
        sub=service.sub,
        call=service.call,
        call_type=service.call_type,
        hosts=service.hosts,
        webgate_type=service.webgate_type,
        parameters=[_declared(one) for one in service.parameters],
        inputs=[_declared_data(one) for one in service.inputs],
        outputs=[_declared_data(one) for one in service.outputs],
        sessions=service.sessions,
    )


def _declared(one: Parameter) -> ParameterOf:
    schema: dict[str, Any] = {"type": one.type}
    limits = {
        "enum": one.enum or None,
        "minLength": one.min_length,
        "maxLength": one.max_length,
        "minimum": one.minimum,
        "maximum": one.maximum,
        "default": one.default,
        "title": one.title or None,
        "description": one.description or None,
        "examples": None if one.example is None else [one.example],
    }
    schema |= {name: value for name, value in limits.items() if value is not None}
    return ParameterOf(key=one.key, schema=schema, required=one.required)


def _declared_data(one: Data) -> DataOf:
    """Return an input or output of an engine. None is required: engines of the original check what they get, and their
    clients omit data that an engine can do without."""
    return DataOf(
        key=one.key,
        type=DataType(one.type),
        encoding=one.encoding,
        compress=one.compress,
        format=one.format,
        title=one.title,
        description=one.description,
        example=one.example or "",
    )


def of_model(
    *,
    name: str,
    version: str = "v1",
    input: Mapping[str, Any],  # noqa: A002 - as in the schema of a model
    output: Mapping[str, Any],
    sessions: bool = False,
) -> Description:
    """Return the description of a model that is not an engine, by the JSON Schemas of its input and output."""
    members = members_of(input)
    all_of_them = list(members.by_name.values()) if members.whole is None else [members.whole]
    return Description(
        name=name,
        version=version,
        parameters=[
            _parameter(one, input) for one in all_of_them if one.role is Role.PARAMETER and one is not members.whole
        ],
        inputs=[_data(one, input) for one in all_of_them if one.role is not Role.PARAMETER or one is members.whole],
        outputs=list(_outputs(output)),
        sessions=sessions,
    )


def _parameter(one: Member, root: Mapping[str, Any]) -> ParameterOf:
    return ParameterOf(key=one.name, schema=written_out(one.schema, root), required=one.required)


def _data(one: Member, root: Mapping[str, Any]) -> DataOf:
    many = one.role is Role.MEDIA_LIST
    stated = written_out(one.schema, root)
    plain = one.role in {Role.TEXT, Role.PARAMETER} and one.only_text
    return DataOf(
        key=f"{one.name}_1" if many else one.name,
        type=one.type,
        format="" if one.role in {Role.MEDIA, Role.MEDIA_LIST} else "plain" if plain else "json",
        encoding=_encoding(stated) if one.role in {Role.MEDIA, Role.MEDIA_LIST} else "utf8",
        title=_text(stated, "title"),
        description=_text(stated, "description"),
        required=one.required,
        many=many,
    )


def _outputs(schema: Mapping[str, Any]) -> Iterator[DataOf]:
    """Yield the results of a model: ``result``, and each medium that its output has."""
    members = members_of(schema)
    if members.whole is not None:
        one = _data(members.whole, schema)
        plain = members.whole.only_text and members.whole.role is not Role.MEDIA
        yield DataOf(
            key=RESULT,
            type=one.type,
            encoding=one.encoding,
            format="plain" if plain else one.format,
            title=one.title,
            description=one.description,
        )
        return
    media = [one for one in members.by_name.values() if one.role in {Role.MEDIA, Role.MEDIA_LIST}]
    if not members.by_name or len(media) < len(members.by_name):
        yield DataOf(
            key=RESULT, type=DataType.TEXT, encoding="utf8", format="json", description=_text(schema, "description")
        )
    for member in media:
        yield _data(member, schema)


def _encoding(schema: Mapping[str, Any]) -> str:
    """Return the encoding of media whose schema allows one type, such as ``image/png``."""
    for one in alternatives_of(schema, schema):
        stated = one.get("contentMediaType")
        if isinstance(stated, str) and "*" not in stated and "/" in stated and stated != "application/octet-stream":
            return encoding_of(stated)
    return ""


def _text(schema: Mapping[str, Any], name: str) -> str:
    value = schema.get(name, "")
    return value if isinstance(value, str) else ""


def written_out(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its references replaced by what they refer to, and without the alternative ``null``."""
    found: dict[str, Any] = _written(schema, root, 0)
    choices = found.get("anyOf")
    if isinstance(choices, list):
        others = [one for one in choices if one != {"type": "null"}]
        if len(others) == 1 and isinstance(others[0], dict):
            found = {**others[0], **{name: value for name, value in found.items() if name != "anyOf"}}
            if found.get("default", 0) is None:
                del found["default"]
    if isinstance(found.get("type"), list):
        kinds = [one for one in found["type"] if one != "null"]
        found["type"] = kinds[0] if len(kinds) == 1 else kinds
    return found


def _written(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if isinstance(schema, list):
        return [_written(one, root, depth) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if depth > _MAX_DEPTH:
        return {}
    found = {name: _written(one, root, depth + 1) for name, one in schema.items() if name not in _NOT_WRITTEN}
    if isinstance(found.get("$ref"), str):
        del found["$ref"]
        _, *referred = alternatives_of({"$ref": schema["$ref"]}, root)
        inner = _written(referred[0], root, depth + 1) if referred else {}
        found = {**inner, **found}
    return found
