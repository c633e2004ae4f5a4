"""Make an output, JSON and media, from a value that ``predict`` returned or yielded."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal
from uuid import uuid4

import pydantic_core
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError, ValidationError

from penstock.errors import dotted
from penstock.failures import CallFailed, Category
from penstock.finite import first_not_finite
from penstock.models.replica.contract.json_schema import describe, short, trouble
from penstock.models.replica.contract.media import File, Lifted
from penstock.models.replica.contract.signature import FunctionSignature
from penstock.models.replica.contract.violations import first
from penstock.models.replica.runtime import Output, Segment

_MARK: Final = f"media:{uuid4().hex}:"  # marks placeholders of media in outputs; unpredictable to others
_OBJECTS: Final = frozenset({"model", "dataclass", "any", "function-plain", "is-instance", "definition-ref"})


class Outputs:
    """Turns results into outputs. Mistakes in the annotation are added to the signature's problems."""

    def __init__(self, signature: FunctionSignature) -> None:
        self.schema: dict[str, Any] = {}
        self._owner = signature.owner
        self._anything = signature.output is Any
        self._what = "what it yielded" if signature.streams else "what it returned"
        if self._anything:
            return
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(signature.output)
            self.schema = describe(adapter, "serialization")
        except Exception as error:  # noqa: BLE001  (the model's types may run code of their own)
            signature.problems.append(
                f"the result of {signature.function}: {trouble(signature.output, 'serialization') or short(error)}"
            )
            return
        self._checked = adapter.validator.validate_python
        self._written = adapter.serializer.to_json
        # Only objects can hold values of other types after the check; searching for those takes as long as writing.
        self._warnings: Literal[False, "error"] = "error" if _has_objects(adapter.core_schema) else False
        self._dumped = adapter.serializer.to_python

    def output(self, value: Any) -> Output:
        """Return a result as JSON and media. Raises CallFailed (``internal``)."""
        lifted = Lifted(_MARK)
        if self._anything:
            written = self._write_anything(value, lifted)
            if _may_not_be_finite(written):
                self._require_finite(value, _dump_anything(value))
        else:
            try:
                written = self._written(
                    self._checked(value),
                    by_alias=True,
                    warnings=self._warnings,
                    context=lifted,
                    fallback=_Fallback(lifted),
                )
            except (ValidationError, PydanticSerializationError):
                lifted.files.clear()
                written = self._write_again(value, lifted)
            if _may_not_be_finite(written):
                self._require_finite(value, self._dump(value))
        if not lifted.files:
            return Output(written)
        return _take_out(written, lifted)

    def _write_anything(self, value: Any, lifted: Lifted) -> bytes:
        try:
            return pydantic_core.to_json(
                value, fallback=_Fallback(lifted), context=lifted, bytes_mode="base64", inf_nan_mode="constants"
            )
        except (PydanticSerializationError, ValueError) as error:
            raise CallFailed(
                Category.INTERNAL, f"the {self._owner}'s output cannot be written as JSON: {short(error)}"
            ) from None

    def _write_again(self, value: Any, lifted: Lifted) -> bytes:
        """Serialize a value that does not have the annotated types, because fields of an object were assigned others or
        numpy's values stand in for Python's own: convert it to plain values, and check each field."""
        parts = _apart(value)
        try:
            checked = self._checked(parts)
            return self._written(checked, by_alias=True, warnings=False, context=lifted, fallback=_Fallback(lifted))
        except ValidationError as error:
            raise self._broken(*first(error, parts)) from None
        except PydanticSerializationError as error:
            raise CallFailed(
                Category.INTERNAL, f"the {self._owner}'s output cannot be written as JSON: {short(error)}"
            ) from None

    def _dump(self, value: Any) -> Any:
        """Return the value to write in Python's own types, in which NaN is not null."""
        lifted = Lifted(_MARK)
        try:
            checked = self._checked(value)
        except ValidationError:
            checked = self._checked(_apart(value))
        return self._dumped(
            checked, mode="json", by_alias=True, warnings=False, context=lifted, fallback=_Fallback(lifted)
        )

    def _require_finite(self, value: Any, dumped: Any) -> None:
        """Refuse NaN in the model's value and in its serialized form."""
        where = first_not_finite(_apart(value))
        if where is None:
            where = first_not_finite(dumped)
        if where is not None:
            raise self._broken(dotted(where), "is NaN or infinite, which JSON cannot hold")

    def _broken(self, field: str, detail: str) -> CallFailed:
        place = f"{field} of {self._what}" if field else self._what
        return CallFailed(Category.INTERNAL, f"the {self._owner} broke its contract: {place} {detail}")


def _has_objects(schema: Any) -> bool:
    """Return whether a core schema holds instances of classes, whose fields may have changed."""
    if isinstance(schema, Mapping):
        return schema.get("type") in _OBJECTS or any(_has_objects(inner) for inner in schema.values())
    return isinstance(schema, list | tuple) and any(_has_objects(inner) for inner in schema)


def _may_not_be_finite(written: bytes) -> bool:
    """Return whether JSON may have held NaN or an infinity: pydantic writes null for them, or their names."""
    return b"null" in written or b"NaN" in written or b"Infinity" in written


def _dump_anything(value: Any) -> Any:
    """Return an output without annotation as plain Python values, converted as in its JSON."""
    lifted = Lifted(_MARK)
    return pydantic_core.to_jsonable_python(
        value, fallback=_Fallback(lifted), context=lifted, bytes_mode="base64", inf_nan_mode="constants"
    )


class _Fallback:
    """Writes types that pydantic does not know: media, and values of numpy."""

    __slots__ = ("_lifted",)

    def __init__(self, lifted: Lifted) -> None:
        self._lifted = lifted

    def __call__(self, value: Any) -> Any:
        if isinstance(value, File):
            return self._lifted.take(value)
        known = _of_numpy(value)
        if known is value:
            raise TypeError(f"a {type(value).__qualname__} cannot be written as JSON")
        return known


def _take_out(written: bytes, lifted: Lifted) -> Output:
    """Return an output whose placeholders have become null, each with its segment."""
    found: dict[int, tuple[str | int, ...]] = {}

    def visit(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, str) and value.startswith(lifted.mark):
            found[int(value[len(lifted.mark) :])] = path
            return None
        if isinstance(value, dict):
            return {key: visit(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [visit(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    without = visit(json.loads(written), ())
    segments = [
        Segment(file.content, file.media_type, found[index], file.name)
        for index, file in enumerate(lifted.files)
        if index in found
    ]
    return Output(json.dumps(without, ensure_ascii=False, separators=(",", ":")).encode(), segments)


def _of_numpy(value: Any) -> Any:
    """Return a value of numpy as Python's own; others as they are."""
    np: Any = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _apart(value: Any) -> Any:
    """Return objects as dictionaries, numpy's values as Python's own, and media as they are."""
    if isinstance(value, BaseModel):
        return {name: _apart(inner) for name, inner in dict(value).items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _apart(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_of_numpy(key): _apart(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_apart(inner) for inner in value]
    return _of_numpy(value)
