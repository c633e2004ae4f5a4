"""Describe mistakes in a value: turn pydantic's errors into field names and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.suggestions import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ValidationError

_MAX_PROBLEMS: Final = 5  # of one call's input that are reported


def unknown(owner: str) -> str:
    """Return the mistake of a field that is not a parameter; ``owner`` is empty for a result."""
    return f"is not an input of this {owner}" if owner else "is not one of its fields"


def refusal(error: ValidationError, given: Any, owner: str, known: Collection[str]) -> CallFailed:
    """Return the failure of a call of a model or flow (the ``owner``) whose input is wrong; ``given`` is that input,
    and ``known`` are the names of its parameters."""
    problems = _problems(error, given, owner)
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            name = str(problem["loc"][0])
            problems[name] = unknown(owner) + did_you_mean(name, known)
    (field, detail), *more = problems.items()
    others = "".join(f"; {name or 'the input'} {words}" for name, words in more[: _MAX_PROBLEMS - 1])
    return CallFailed(Category.BAD_INPUT, detail + others, field=field or None)


def first(error: ValidationError, given: Any) -> tuple[str, str]:
    """Return the first wrong field of a result and what is allowed there."""
    return next(iter(_problems(error, given, "").items()))


def _problems(error: ValidationError, given: Any, owner: str) -> dict[str, str]:
    """Return what is allowed in each wrong field. The branches of a union concern one field, and are joined by "or"."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        words = found.setdefault(_located(problem["loc"], given, missing=problem["type"] == "missing"), [])
        words.append(_words(problem["type"], problem["msg"], owner))
    return {field: " or ".join(dict.fromkeys(words)) for field, words in found.items()}


def _located(location: tuple[int | str, ...], given: Any, *, missing: bool) -> str:
    """Return a path in the input, without the branches of unions that pydantic's paths also contain."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        if isinstance(given, Mapping) and part in given:
            given = given[part]
            path.append(part)
        elif isinstance(given, Mapping) and missing and index == len(location) - 1:
            path.append(part)
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            given = given[part]
            path.append(part)
    return dotted(path)


_SHOULD = re.compile(r"^(?:Input|[A-Z]\w*(?: \w+)?) should ")


def _words(kind: str, message: str, owner: str) -> str:
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return unknown(owner)
        case "value_error" | "assertion_error":
            return message.partition(", ")[2]
        case "json_invalid":
            return f"is not valid JSON: {message.partition(': ')[2]}"
        case "dict_type" | "model_type" | "dataclass_type" | "model_attributes_type":
            return "must be an object"
    return _SHOULD.sub("must ", message)
