"""Describe violations of a JSON Schema: turn errors of jsonschema_rs into fields and what is allowed there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from penstock.errors import FieldProblem, dotted
from penstock.suggestions import did_you_mean

_MEDIA: Final = "must be a data: URL, or blob: and the id of an upload"
_MAX_DETAIL: Final = 300  # characters
_MAX_UNKNOWN: Final = 20  # fields that a message names
_MAX_NAME: Final = 100  # characters of an unknown field that an error repeats
_MAX_DEPTH: Final = 10  # depth of nested choices
_MAX_COMPARED: Final = 20  # errors of an alternative


def problems(
    error: Any, prefix: str, fields: Sequence[str] = (), *, owner: str = "model", depth: int = 0
) -> Iterator[FieldProblem]:
    """Yield the mistakes behind one error (a ``jsonschema_rs.ValidationError``), each named below ``prefix``.

    ``fields`` are the input's own, for suggestions; ``owner`` is what has the input, such as a model. Of a broken
    choice (``anyOf``) the mistakes are those of the alternative that the value is meant to be: the only one beside
    null, or the only one of its type. Where that cannot be known, they say what each alternative wants.
    """
    kind = type(error.kind).__name__
    if kind == "AdditionalProperties":
        yield from _unknown(error, prefix, fields, owner)
        return
    if kind not in {"AnyOf", "OneOfNotValid"} or depth == _MAX_DEPTH:
        field, detail = _described(error)
        yield FieldProblem(field=(prefix + field).lstrip(".") or "body", detail=short(detail))
        return
    alternatives = [branch for branch in error.kind.context if branch and not _wants_null(branch)]
    meant = [branch for branch in alternatives if not _of_another_type(branch, error)] or alternatives
    if len(meant) == 1:
        for one in meant[0]:
            yield from problems(one, prefix, owner=owner, depth=depth + 1)
        return
    requirements = dict.fromkeys(_requirement(branch[0], error) for branch in meant)
    detail = " or ".join(requirements) if requirements else "is not allowed"
    yield FieldProblem(field=(prefix + _path(error)).lstrip(".") or "body", detail=short(detail))


def short(text: str) -> str:
    """Return a message on one line, cut off where it becomes long."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_DETAIL else line[:_MAX_DETAIL] + "…"


def _unknown(error: Any, prefix: str, fields: Sequence[str], owner: str) -> Iterator[FieldProblem]:
    """Yield a mistake for each unknown field, with the one that was probably meant."""
    path = _path(error)
    for name in islice(error.kind.unexpected, _MAX_UNKNOWN):
        suggestion = did_you_mean(name, fields) if not path else ""
        field = (prefix + f"{path}.{name[:_MAX_NAME]}").lstrip(".")
        yield FieldProblem(field=field, detail=f"is not an input of this {owner}{suggestion}")


def _described(error: Any) -> tuple[str, str]:
    """Return the field and what is wrong with it."""
    path, kind = _path(error), error.kind
    match type(kind).__name__:
        case "Required":
            return f"{path}.{kind.property}", "is required"
        case "AdditionalProperties":
            return f"{path}.{kind.unexpected[0]}", "is not one of its fields"
        case "Format":
            return path, _MEDIA if kind.format == "media" else f"must be a {kind.format}"
        case "Type":
            return path, f"must be of type {' or '.join(kind.types)}"
        case "Enum":
            return path, f"must be one of {_listed(kind.options)}"
        case "Constant":
            return path, f"must be {json.dumps(kind.expected_value, ensure_ascii=False)}"
    return path, str(error.message)


def _requirement(error: Any, choice: Any) -> str:
    """Return what one alternative wants, described at the field of the choice."""
    field, detail = _described(error)
    inside = field[len(_path(choice)) :].lstrip(".")
    return f"{inside} {detail}" if inside else detail


def _path(error: Any) -> str:
    path = dotted(list(error.instance_path))
    return path if not path or path.startswith("[") else f".{path}"


def _listed(options: Sequence[Any]) -> str:
    return ", ".join(json.dumps(option, ensure_ascii=False) for option in options)


def _wants_null(branch: Sequence[Any]) -> bool:
    return type(branch[0].kind).__name__ == "Type" and list(branch[0].kind.types) == ["null"]


def _of_another_type(branch: Sequence[Any], choice: Any) -> bool:
    """Return whether the value is not even of the alternative's type."""
    here = list(choice.instance_path)
    first = islice(branch, _MAX_COMPARED)
    return any(type(one.kind).__name__ == "Type" and list(one.instance_path) == here for one in first)
