"""Check a call's input against its model's JSON Schema, before the model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from penstock.errors import FieldProblem, InvalidInput
from penstock.models import mistakes
from penstock.models.uploads import upload_id

_MAX_PROBLEMS: Final = 20
_MAX_EXPLAINED: Final = 5000  # values of an input
_MAX_SCHEMA_LEVELS: Final = 200  # jsonschema_rs takes 254; schemas are put into others, such as those of messages
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
    return value.startswith(_URLS)


def _may_be_media(value: str) -> bool:
    return _is_media(value) or upload_id(value) is not None


class Checker:
    """Checks values against one schema. An empty schema allows everything and costs nothing. With ``uploads``, media
    may be stated as ``blob:ID``. Errors name the ``owner`` of the schema."""

    def __init__(self, schema: Mapping[str, Any], *, uploads: bool = False, owner: str = "model") -> None:
        self._owner = owner
        self._validator = _validator(schema, uploads=uploads) if schema else None
        properties = schema.get("properties")
        self._fields = tuple(properties) if isinstance(properties, Mapping) else ()

    def check(self, value: Any, *, prefix: str = "", json: bytes = b"") -> None:
        """Raise InvalidInput that names each field that breaks a rule, below ``prefix``.

        ``json`` is the source of a value that may be large. Explaining a mistake takes the validator a thousand times
        as long as detecting one, so an input of many values is refused without an explanation. The validator raises
        ValueError for a value of more than 255 levels that it would have to explain, or to compare with another one.
        """
        if self._validator is None:
            return
        try:
            if self._validator.is_valid(value):
                return
            if json.count(b",") > _MAX_EXPLAINED:
                raise self._unexplained(prefix, f"of more than {_MAX_EXPLAINED} values, the place is not reported")
            problems = list(islice(self._problems(value, prefix), _MAX_PROBLEMS))
        except ValueError:
            raise self._unexplained(prefix, "it is nested too deeply to report the place") from None
        raise InvalidInput(problems)

    def _problems(self, value: Any, prefix: str) -> Iterator[FieldProblem]:
        assert self._validator is not None  # noqa: S101 - ``check`` has used it
        for error in self._validator.iter_errors(value):
            yield from mistakes.problems(error, prefix, self._fields, owner=self._owner)

    def _unexplained(self, prefix: str, reason: str) -> InvalidInput:
        return InvalidInput.of(prefix or "body", f"does not fit the {self._owner}'s schema; {reason}")

    @staticmethod
    def check_schema(schema: Mapping[str, Any], field: str) -> None:
        """Raise InvalidInput when ``schema`` itself is not a JSON Schema, is nested too deeply, or refers to something
        outside of it."""
        if _is_deeper(schema, _MAX_SCHEMA_LEVELS):
            raise InvalidInput.of(field, f"is nested more than {_MAX_SCHEMA_LEVELS} levels deep")
        try:
            _validator(schema)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise InvalidInput.of(field, f"is not a JSON Schema (2020-12): {mistakes.short(str(error))}") from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether a value has lists or objects at more than so many levels."""
    found = [value]
    for _ in range(levels + 1):
        found = [one for one in found if isinstance(one, Mapping | list)]
        if not found:
            return False
        found = [inner for one in found for inner in (one.values() if isinstance(one, Mapping) else one)]
    return True


def _validator(schema: Mapping[str, Any], *, uploads: bool = False) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        formats={"media": _may_be_media if uploads else _is_media},
        validate_formats=True,
        keywords={"contentMediaType": _MediaType},
        pattern_options=jsonschema_rs.RegexOptions(),  # linear time: no pattern can hang the gateway
        mask="this value",  # messages do not quote the value: it may be huge, or secret
        offline=True,  # a schema must not fetch anything
    )
