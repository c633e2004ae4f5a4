"""The manifest of an app: ``app.toml``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from penstock import durations
from penstock.apps.reserved import OVERRIDABLE, RESERVED
from penstock.checking import all_of
from penstock.errors import FieldProblem, InvalidInput
from penstock.models import manifest as model_manifest
from penstock.models.checking import Checker
from penstock.models.manifest_keys import ModelName

FILE_NAME: Final = "app.toml"
SCHEMAS: Final = ("request_schema", "result_schema")
_MAX_PROBLEMS: Final = 50
_MAX_SCHEMA_BYTES: Final = 2**18
_DURATIONS: Final = (timedelta(seconds=1), timedelta(days=30))  # of limits
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$(?!\n)"

AppName = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$(?!\n)", description="The app.")
]
AppVersion = Annotated[str, Meta(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)")]
FlowReference = Annotated[
    str, Meta(min_length=1, max_length=201, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$(?!\n)")
]
Port = Annotated[int, Meta(ge=1, le=65_535)]
VariableName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)")]


class RequestLimits(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What one request may take."""

    max_input_bytes: Annotated[int, Meta(ge=1, le=2**30)] | None = None  # None: the gateway's limit
    ttl: str | None = None  # a request that no worker has begun by then fails
    timeout: str | None = None  # a request that has not ended by then fails
    result_retention: str | None = None  # after its end, when its result is removed; None: with the job


class Price(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is counted for a completed request: one ``unit``, or as many as its result says at the pointer ``units``."""

    unit: Annotated[str, Meta(min_length=1, max_length=50, pattern=_PLAIN)] = "request"
    units: Annotated[str, Meta(max_length=200)] | None = None

    @property
    def path(self) -> list[str] | None:
        """The steps of the pointer."""
        if self.units is None:
            return None
        return [step.replace("~1", "/").replace("~0", "~") for step in self.units.split("/")[1:]]


class Service(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One of the app's models with an API and a worker of its own."""

    name: AppName  # its path, and the name of its container
    model: ModelName
    port: Port
    port_variable: VariableName | None = None  # the environment variable that changes the port; None: by the name

    @property
    def variable(self) -> str:
        """The environment variable that changes the port."""
        return self.port_variable or port_variable_of(self.name)


def port_variable_of(name: str) -> str:
    """Return the variable that changes the port of a service that states none."""
    return f"{name.upper().replace('-', '_')}_PORT"


class AppManifest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The keys of ``app.toml``."""

    name: AppName
    version: AppVersion = "1"
    title: Annotated[str, Meta(max_length=200, pattern=_PLAIN)] = ""
    description: Annotated[str, Meta(max_length=10_000)] = ""  # "": the flow's
    flow: FlowReference | None = None  # name, or name@version; None: the app's name
    request_schema: dict[str, Any] | None = None  # JSON Schema of inputs, besides the types of the flow
    result_schema: dict[str, Any] | None = None  # of results, besides the types of the flow
    limits: RequestLimits = RequestLimits()
    price: Price = Price()
    services: Annotated[list[Service], Meta(max_length=50)] = []
    variables: dict[str, str | int | float | bool] = {}

    @property
    def flow_name(self) -> str:
        return (self.flow or self.name).partition("@")[0]

    @property
    def flow_version(self) -> str | None:
        """The version of the flow, if the app names one; otherwise a request gets the newest."""
        return (self.flow or "").partition("@")[2] or None

    @property
    def ttl(self) -> timedelta | None:
        return None if self.limits.ttl is None else durations.parse(self.limits.ttl)

    @property
    def timeout(self) -> timedelta | None:
        return None if self.limits.timeout is None else durations.parse(self.limits.timeout)

    @property
    def result_retention(self) -> timedelta | None:
        return None if self.limits.result_retention is None else durations.parse(self.limits.result_retention)

    def defaults(self) -> dict[str, str]:
        """Return the variables as an environment has them."""
        return {name: _text(value) for name, value in self.variables.items()}


class BrokenApp(InvalidInput):
    """An ``app.toml`` that cannot be used; each problem names its key."""


def read(path: Path) -> AppManifest:
    """Return the manifest of a file. Raises BrokenApp with every mistake."""
    try:
        stated = model_manifest.tables_of(path)
    except InvalidInput as error:
        raise BrokenApp(error.problems) from None
    return check({"name": path.parent.name, **_with_schemas(stated, path.parent)})


def check(stated: Mapping[str, Any]) -> AppManifest:
    """Return the manifest that these keys state. Raises BrokenApp with every mistake."""
    problems = all_of(stated, AppManifest)
    known = {problem.field for problem in problems}
    problems += (problem for problem in _mistakes(stated) if problem.field not in known)
    if problems:
        raise BrokenApp(problems[:_MAX_PROBLEMS])
    return msgspec.convert(stated, AppManifest)


def _mistakes(stated: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield the mistakes that types do not express; values of wrong types are passed over."""
    for name in SCHEMAS:
        yield from _mistaken_schema(stated.get(name), name)
    for name in ("ttl", "timeout", "result_retention"):
        limit = _inside(stated, "limits", name)
        if isinstance(limit, str) and not _is_duration(limit):
            yield FieldProblem(field=f"limits.{name}", detail="must be a duration from 1s to 30d")
    pointer = _inside(stated, "price", "units")
    if isinstance(pointer, str) and not _POINTER.fullmatch(pointer):
        detail = "must be a JSON pointer into the result, such as /duration"
        yield FieldProblem(field="price.units", detail=detail)
    services = stated.get("services")
    ports = _with_variables(services if isinstance(services, list) else [])
    variables = stated.get("variables")
    yield from _mistaken_variables(variables if isinstance(variables, Mapping) else {}, ports)
    yield from _mistaken_ports(ports)
    yield from _repeated(ports)


def _is_duration(text: str) -> bool:
    try:
        return _DURATIONS[0] <= durations.parse(text) <= _DURATIONS[1]
    except ValueError:
        return False


def _with_schemas(stated: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the keys with the schemas that are named as files of the app. Raises BrokenApp."""
    found, problems = dict(stated), []
    for name in SCHEMAS:
        if isinstance(stated.get(name), str):
            try:
                found[name] = _schema_in(folder, stated[name])
            except ValueError as error:
                problems.append(FieldProblem(field=name, detail=str(error)))
    if problems:
        raise BrokenApp(problems)
    return found


def _schema_in(folder: Path, name: str) -> object:
    """Return the content of a file of an app. Raises ValueError, which says what it must be."""
    path = folder / name
    if not name.endswith(".json") or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("must be a JSON Schema, or the name of a .json file in the folder of the app")
    try:
        return msgspec.json.decode(model_manifest.content_of(path))
    except OSError as error:
        raise ValueError(f"{name[:100]} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError, InvalidInput) as error:
        raise ValueError(f"{name[:100]} is not valid JSON: {str(error)[:200]}") from None


def _mistaken_schema(schema: object, name: str) -> Iterator[FieldProblem]:
    if not isinstance(schema, Mapping):
        return
    if len(msgspec.json.encode(schema)) > _MAX_SCHEMA_BYTES:
        yield FieldProblem(field=name, detail=f"must have at most {_MAX_SCHEMA_BYTES} bytes")
        return
    try:
        Checker.check_schema(schema, name)
    except InvalidInput as error:
        yield from error.problems


def _with_variables(services: Sequence[object]) -> list[Mapping[str, Any]]:
    """Return the services as they are stated, with the variables of their ports."""
    found: list[Mapping[str, Any]] = []
    for one in services:
        service = dict(one) if isinstance(one, Mapping) else {}
        if "port_variable" not in service and isinstance(service.get("name"), str):
            service["port_variable"] = port_variable_of(service["name"])
        found.append(service)
    return found


def _mistaken_variables(variables: Mapping[str, Any], services: Sequence[Mapping[str, Any]]) -> Iterator[FieldProblem]:
    ports = [one.get("port_variable") for one in services]
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            detail = "must have only letters, digits and _, and not begin with a digit"
        elif name in RESERVED - OVERRIDABLE:
            detail = "must be another name: deployments have this variable for themselves"
        elif name in ports:
            detail = f"must be another name: it is the port of services[{ports.index(name)}]"
        else:
            continue
        yield FieldProblem(field=f"variables.{name[:100]}", detail=detail)


def _mistaken_ports(services: Sequence[Mapping[str, Any]]) -> Iterator[FieldProblem]:
    for index, service in enumerate(services):
        name = service.get("port_variable")
        if not isinstance(name, str):
            continue
        if name in RESERVED:
            detail = f"must be another name: deployments have {name} for themselves"
        elif not _VARIABLE.fullmatch(name):
            detail = "must be stated, because the name of the service gives none that is valid"
        else:
            continue
        yield FieldProblem(field=f"services[{index}].port_variable", detail=detail)


def _inside(stated: Mapping[str, Any], table: str, key: str) -> object:
    """Return a value in a table."""
    found = stated.get(table)
    return found.get(key) if isinstance(found, Mapping) else None


def _repeated(services: Sequence[Mapping[str, Any]]) -> Iterator[FieldProblem]:
    """Yield a mistake for each service that takes the name or port of an earlier one.

    Services of one name have one variable, which is not a second mistake.
    """
    for key in ("name", "port", "port_variable"):
        first: dict[Any, int] = {}
        for index, service in enumerate(services):
            value = service.get(key)
            if isinstance(value, str | int) and first.setdefault(value, index) != index:
                if key == "port_variable" and services[first[value]].get("name") == service.get("name"):
                    continue
                detail = f"is also that of services[{first[value]}]"
                yield FieldProblem(field=f"services[{index}].{key}", detail=detail)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
