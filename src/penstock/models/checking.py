"""Checking a call's input against its model's JSON Schema, before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import jsonschema_rs

from penstock.errors import FieldProblem, InvalidInput
from penstock.models import mistakes
from penstock.models.uploads import upload_id

_MOST_PROBLEMS: Final = 20
_URLS: Final = ("data:", "http://", "https://")


class _MediaType:
    """The keyword ``contentMediaType``: a ``data:`` URL must be of that type, which may be ``image/*``."""

    def __init__(self, _parent: Any, value: Any, _path: Any) -> None:
        self._allowed = value if isinstance(value, str) else "*"

    def validate(self, instance: Any) -> None:
        if isinstance(instance, str) and instance.startswith("data:") and not self._accepts(instance):
            raise ValueError(f"must be of media type {self._allowed}")

    def _accepts(self, url: str) -> bool:
        stated = url[5:200].partition(",")[0].partition(";")[0].strip().lower() or "text/plain"
        return self._allowed == "application/octet-stream" or fnmatchcase(stated, self._allowed.lower())


def _is_media(value: str) -> bool:
    return value.startswith(_URLS) or upload_id(value) is not None


class Checker:
    """Checks values against one schema. An empty schema allows everything, at no cost."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _validator(schema) if schema else None

    def check(self, value: Any, *, prefix: str = "") -> None:
        """Raise InvalidInput that names each field which breaks a rule, below ``prefix``."""
        if self._validator is None or self._validator.is_valid(value):
            return
        problems: list[FieldProblem] = []
        for error in self._validator.iter_errors(value):
            problems += mistakes.problems(error, prefix)
            if len(problems) >= _MOST_PROBLEMS:
                break
        raise InvalidInput(problems[:_MOST_PROBLEMS])

    @staticmethod
    def check_schema(schema: Mapping[str, Any], field: str) -> None:
        """Raise InvalidInput when ``schema`` itself is no JSON Schema, or refers to something outside of it."""
        try:
            _validator(schema)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise InvalidInput.of(field, f"is no JSON Schema (2020-12): {mistakes.short(str(error))}") from None


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        formats={"media": _is_media},
        validate_formats=True,
        keywords={"contentMediaType": _MediaType},
        pattern_options=jsonschema_rs.RegexOptions(),  # linear time: no pattern can hang the gateway
        mask="this value",  # which may be huge, or secret, is not quoted in messages
        offline=True,  # a schema fetches nothing
    )
