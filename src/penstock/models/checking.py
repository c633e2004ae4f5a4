"""Check a call's input against its model's JSON Schema, before the model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from penstock.errors import InvalidInput
from penstock.models import mistakes
from penstock.models.uploads import upload_id

_MAX_PROBLEMS: Final = 20
_MAX_EXPLAINED: Final = 5000  # values of an input
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
        as long as detecting one, so an input of many values is refused without an explanation.
        """
        if self._validator is None or self._validator.is_valid(value):
            return
        if json.count(b",") > _MAX_EXPLAINED:
            where = f"of more than {_MAX_EXPLAINED} values, the place is not reported"
            raise InvalidInput.of(prefix or "body", f"does not fit the {self._owner}'s schema; {where}")
        errors = self._validator.iter_errors(value)
        found = (one for error in errors for one in mistakes.problems(error, prefix, self._fields, owner=self._owner))
        raise InvalidInput(list(islice(found, _MAX_PROBLEMS)))

    @staticmethod
    def check_schema(schema: Mapping[str, Any], field: str) -> None:
        """Raise InvalidInput when ``schema`` itself is not a JSON Schema, or refers to something outside of it."""
        try:
            _validator(schema)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise InvalidInput.of(field, f"is not a JSON Schema (2020-12): {mistakes.short(str(error))}") from None


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
