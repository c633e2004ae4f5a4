"""Convert an input, JSON and media, to the arguments of ``predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, get_args

import typing_extensions
from pydantic import ConfigDict, TypeAdapter
from pydantic_core import ValidationError

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.models.replica.contract.json_schema import describe, short, trouble
from penstock.models.replica.contract.media import File
from penstock.models.replica.contract.signature import FunctionSignature
from penstock.models.replica.contract.violations import refusal, unknown
from penstock.models.replica.runtime import Segment

_CONFIG: Final = ConfigDict(extra="forbid", val_json_bytes="base64")  # of the object that holds the parameters


class Inputs:
    """Turns inputs into arguments. Mistakes in the annotations are added to the signature's problems."""

    def __init__(self, signature: FunctionSignature) -> None:
        self.schema: dict[str, Any] = {}
        self._owner = signature.owner
        self._names = tuple(signature.inputs)
        # A typed dictionary, not a model class: any name will do for a parameter, and validating makes what is needed.
        make: Any = typing_extensions.TypedDict  # pydantic requires this one before Python 3.12
        try:
            fields = make("Input", signature.inputs)
            fields.__pydantic_config__ = _CONFIG
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(fields)
            self.schema = describe(adapter, "validation")
            del self.schema["title"]
        except Exception as error:  # noqa: BLE001  (types of the model's bring code of their own)
            found = [
                f"parameter {name} of {signature.function}: {what}"
                for name, hint in signature.inputs.items()
                if (what := trouble(get_args(hint)[0], "validation"))
            ]
            signature.problems.extend(found or [f"{signature.function}: {short(error)}"])
            return
        self._of_json = adapter.validator.validate_json
        self._of_python = adapter.validator.validate_python

    def arguments(self, given: bytes, segments: Sequence[Segment]) -> dict[str, Any]:
        """Return the keyword arguments of ``predict``. Raises CallFailed (``bad_input``)."""
        placed: Any = None
        try:
            if segments:
                placed = _place(given, segments, self._owner)
                # Not strict: the value comes from JSON, in which a date or a tuple cannot be written as one.
                arguments: dict[str, Any] = self._of_python(placed, strict=False)
            else:
                arguments = self._of_json(given)
        except ValidationError as error:
            if placed is None:
                placed = _decoded(given)
            raise refusal(error, placed, self._owner, self._names) from None
        return arguments


def _decoded(given: bytes) -> Any:
    """Return the value of JSON, or None if it cannot be read."""
    try:
        return json.loads(given)
    except ValueError:
        return None


def _place(given: bytes, segments: Sequence[Segment], owner: str) -> Any:
    """Return the input with its media inserted at their places; raises CallFailed."""
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise CallFailed(Category.BAD_INPUT, f"is not valid JSON: {error}") from None
    for segment in segments:
        place, key = value, None
        try:
            for key in segment.path[:-1]:
                place = place[key]
            key = segment.path[-1]
            place[key]  # the path must exist
            place[key] = File(segment.data, segment.media_type, segment.name)
        except (LookupError, TypeError):
            raise CallFailed(
                Category.BAD_INPUT, f"takes no media: {unknown(owner)}", field=dotted(segment.path)
            ) from None
        except ValueError as error:
            raise CallFailed(Category.BAD_INPUT, str(error), field=dotted(segment.path)) from None
    return value
