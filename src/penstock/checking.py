"""Check values against types: msgspec's errors as problems, each with its field and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, inspect

from penstock.errors import FieldProblem, InvalidInput
from penstock.suggestions import did_you_mean

T = TypeVar("T")

_AT: Final = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`")
_ENUM: Final = re.compile(r"^Invalid enum value")
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")
_MAX_NAME: Final = 100  # characters of an unknown field that an error repeats
_MAX_PROBLEMS: Final = 20
_MAX_ITEMS: Final = 200  # of a list of structures that are compared; behind them, only the first mistake is found
_MAX_NAMED: Final = 40  # fields or values that are listed


def converted(stated: Mapping[str, Any], kind: type[T]) -> T:
    """Convert ``stated`` to a structure of that kind. Raises InvalidInput with every field that is wrong.

    Raises RecursionError when ``stated`` is nested too deeply.
    """
    try:
        return msgspec.convert(stated, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(all_of(stated, kind) or [_problem(str(error), kind)]) from None


def all_of(stated: Any, kind: Any) -> list[FieldProblem]:
    """Return what is wrong with each field of a structure and of those inside it. Other values have no fields."""
    if not isinstance(stated, Mapping) or not (isinstance(kind, type) and issubclass(kind, Struct)):
        return []
    problems: list[FieldProblem] = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind.__struct_config__.forbid_unknown_fields:
        unknown = islice((name for name in stated if name not in fields), _MAX_PROBLEMS)
        problems += [_unknown(str(name), "", [] if index else list(fields)) for index, name in enumerate(unknown)]
    for name, field in fields.items():
        if name not in stated:
            if field.required:
                problems.append(FieldProblem(field=name, detail="is required"))
            continue
        if inner := _mistakes_inside(stated[name], field.type, name):
            problems += inner
            continue
        try:
            msgspec.json.decode(
                msgspec.json.encode(stated[name]), type=field.type
            )  # Raw accepts any JSON only this way
        except msgspec.ValidationError as error:
            problems.append(_problem(str(error), field.type, name))
    return problems[:_MAX_PROBLEMS]


def _mistakes_inside(stated: Any, kind: Any, name: str) -> list[FieldProblem]:
    """Return the mistakes inside a field that holds a structure, or a list of them; their names begin with ``name``."""
    types = list(_members(inspect.type_info(kind)))
    if not isinstance(stated, list):
        return _mistakes_in(stated, types, name)
    items = [item for one in types if isinstance(one, inspect.ListType) for item in _members(one.item_type)]
    found = (_mistakes_in(one, items, f"{name}[{index}]") for index, one in enumerate(stated[:_MAX_ITEMS]))
    return list(islice((problem for problems in found for problem in problems), _MAX_PROBLEMS))


def _mistakes_in(stated: Any, types: Sequence[inspect.Type], name: str) -> list[FieldProblem]:
    """Return the mistakes in a structure, if its types allow exactly one."""
    structures = [one for one in types if isinstance(one, inspect.StructType)]
    if not isinstance(stated, Mapping) or len(structures) != 1:
        return []
    return [
        FieldProblem(field=_joined(name, problem.field), detail=problem.detail)
        for problem in all_of(stated, structures[0].cls)
    ]


def invalid(message: str, kind: Any = Any) -> InvalidInput:
    """Return the error for one message of msgspec about a value that should be of that kind."""
    return InvalidInput([_problem(message, kind)])


def _problem(message: str, kind: Any, prefix: str = "") -> FieldProblem:
    at = _AT.search(message)
    below = (at["path"] if at else "$").removeprefix("$").replace("[...]", "[]")
    path = f"{prefix}{below}".lstrip(".")
    said = _AT.sub("", message)
    if missing := _MISSING.match(said):
        return FieldProblem(field=_joined(path, missing["name"]), detail="is required")
    if unknown := _UNKNOWN.match(said):
        return _unknown(unknown["name"], path, [name for one in _types_at(kind, below) for name in _names(one)])
    if _ENUM.match(said):
        values = [str(value) for one in _types_at(kind, below) for value in _values(one)]
        if 0 < len(values) <= _MAX_NAMED:
            return FieldProblem(field=path or "body", detail=f"must be one of {', '.join(values)}")
    return FieldProblem(field=path or "body", detail=said[:1].lower() + said[1:])


def _unknown(name: str, path: str, known: Sequence[str]) -> FieldProblem:
    there_are = f"; there are: {', '.join(known)}" if 0 < len(known) <= _MAX_NAMED else ""
    detail = f"is not known here{did_you_mean(name, known) or there_are}"
    return FieldProblem(field=_joined(path, name[:_MAX_NAME]), detail=detail)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _types_at(kind: Any, path: str) -> list[inspect.Type]:
    """Return the types that a value may have at ``path``, with unions split into their members."""
    types = list(_members(inspect.type_info(kind)))
    for name, _index in _STEP.findall(path):
        types = [inner for outer in types for inner in _inside(outer, name)]
    return types


def _members(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _members(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _members(one)
    else:
        yield kind


def _inside(kind: inspect.Type, name: str) -> Iterator[inspect.Type]:
    """Return the types one level down: of the field ``name``, or of the values of a list or dictionary."""
    match kind:
        case inspect.StructType() if name:
            for field in kind.fields:
                if field.encode_name == name:
                    yield from _members(field.type)
        case inspect.DictType():
            yield from _members(kind.value_type)
        case inspect.ListType() | inspect.SetType() | inspect.VarTupleType() if not name:
            yield from _members(kind.item_type)


def _values(kind: inspect.Type) -> list[Any]:
    match kind:
        case inspect.EnumType():
            return [member.value for member in kind.cls]
        case inspect.LiteralType():
            return list(kind.values)
    return []


def _names(kind: inspect.Type) -> list[str]:
    return [field.encode_name for field in kind.fields] if isinstance(kind, inspect.StructType) else []
