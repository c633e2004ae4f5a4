"""From a class with a typed ``predict`` to its JSON Schema, and from JSON to its arguments and back.

Pydantic's validators are built once, when a model is described; a call only runs them. Media are no part of the JSON on
its way: they are put into the input, and taken out of the output, at their paths.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args
from uuid import uuid4

import pydantic_core
import typing_extensions
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, ValidationError

from penstock.models.replica.contract.context import BadInput
from penstock.models.replica.contract.json_schema import describe, short, trouble
from penstock.models.replica.contract.media import File, Lifted
from penstock.models.replica.contract.signature import ContractError, Signature, description
from penstock.models.replica.contract.violations import NO_INPUT, dotted, first, refusal
from penstock.models.replica.runtime import Output, Schema, Segment
from penstock.outbound.failure import CallFailed

_MARK: Final = f"media:{uuid4().hex}:"  # placeholders of media in outputs; nobody outside can know it
_INPUTS: Final = ConfigDict(extra="forbid", val_json_bytes="base64")  # of the object that holds the parameters


class Contract:
    """What one class takes and gives."""

    def __init__(self, model: type) -> None:
        """Raises ContractError."""
        signature = Signature(model)
        self.model = model
        self.streams: Final = signature.streams
        self.batches: Final = signature.batches
        self.asynchronous: Final = signature.asynchronous
        self.context: Final = signature.context  # the parameter that takes the Context
        self.parameters: Final = tuple(signature.inputs)
        self._takes = _Taker(signature)
        self._gives = _Giver(signature)
        if signature.problems:
            raise ContractError(model.__qualname__, signature.problems)
        self.schema: Final = Schema(
            input=self._takes.schema,
            output=self._gives.schema,
            description=description(model),
            streams=self.streams,
            batches=self.batches,
            cancels=True,
        )
        self._together = namedtuple("Inputs", self.parameters)  # type: ignore[misc]  # noqa: PYI024  (its names are known here)

    def arguments(self, input: bytes, segments: Sequence[Segment] = ()) -> dict[str, Any]:  # noqa: A002
        """The keyword arguments of ``predict``, without the Context. Raises CallFailed (``bad_input``)."""
        return self._takes(input, segments)

    def element(self, arguments: Mapping[str, Any]) -> Any:
        """A call's arguments as an element of what ``predict_batch`` gets: the value of the only parameter, or an
        object with all of them as attributes."""
        if len(self.parameters) == 1:
            return arguments[self.parameters[0]]
        return self._together(**arguments)

    def output(self, value: Any) -> Output:
        """What ``predict`` returned or yielded, as JSON and media. Raises CallFailed (``failed``) when it is not of
        the annotated type, or holds NaN or an infinity, which JSON does not have."""
        return self._gives(value)


def bad_input(error: BadInput) -> CallFailed:
    """A model's refusal, as its caller is told."""
    return CallFailed("bad_input", error.message, field=error.field)


class _Taker:
    """Turns an input into arguments."""

    def __init__(self, signature: Signature) -> None:
        self.schema: dict[str, Any] = {}
        # A typed dictionary, and no model class: any name will do for a parameter, and validating makes what is needed.
        make: Any = typing_extensions.TypedDict  # pydantic wants this one before Python 3.12
        try:
            fields = make("Input", signature.inputs)
            fields.__pydantic_config__ = _INPUTS
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(fields)
            self.schema = describe(adapter, "validation")
            del self.schema["title"]
        except Exception as error:  # noqa: BLE001  (types of the model's bring code of their own)
            found = [
                f"parameter {name} of predict: {what}"
                for name, hint in signature.inputs.items()
                if (what := trouble(get_args(hint)[0], "validation"))
            ]
            signature.problems.extend(found or [f"predict: {short(error)}"])
            return
        self._of_json = adapter.validator.validate_json
        self._of_python = adapter.validator.validate_python

    def __call__(self, given: bytes, segments: Sequence[Segment]) -> dict[str, Any]:
        placed: Any = None
        try:
            if segments:
                placed = _place(given, segments)
                # Not strict: the value comes from JSON, in which a date or a tuple cannot be written as one.
                arguments: dict[str, Any] = self._of_python(placed, strict=False)
            else:
                arguments = self._of_json(given)
        except ValidationError as error:
            if placed is None:
                placed = _decoded(given)
            raise refusal(error, placed) from None
        return arguments


class _Giver:
    """Turns a result into an output."""

    def __init__(self, signature: Signature) -> None:
        self.schema: dict[str, Any] = {}
        self._anything = signature.output is Any
        self._what = "it yielded" if signature.streams else "it returned"
        if self._anything:
            return
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(signature.output)
            self.schema = describe(adapter, "serialization")
        except Exception as error:  # noqa: BLE001  (types of the model's bring code of their own)
            signature.problems.append(
                f"the result of predict: {trouble(signature.output, 'serialization') or short(error)}"
            )
            return
        self._checked = adapter.validator.validate_python
        self._written = adapter.serializer.to_json
        self._dumped = adapter.serializer.to_python

    def __call__(self, value: Any) -> Output:
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
                    warnings="error",
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
            raise CallFailed("failed", f"what the model gives cannot be written as JSON: {short(error)}") from None

    def _write_again(self, value: Any, lifted: Lifted) -> bytes:
        """Objects whose fields are not what they state, and numpy's where Python's own were stated: taken apart, and
        checked field by field."""
        parts = _apart(value)
        try:
            checked = self._checked(parts)
            return self._written(checked, by_alias=True, warnings=False, context=lifted, fallback=_Fallback(lifted))
        except ValidationError as error:
            field, detail = first(error, parts)
            where = f"{field} " if field else ""
            raise CallFailed(
                "failed", f"the model broke its contract: of what {self._what}, {where or 'the whole '}{detail}"
            ) from None
        except PydanticSerializationError as error:
            raise CallFailed("failed", f"what the model gives cannot be written as JSON: {short(error)}") from None

    def _dump(self, value: Any) -> Any:
        """Return what is written as JSON as Python's own values, in which NaN is not null."""
        lifted = Lifted(_MARK)
        try:
            checked = self._checked(value)
        except ValidationError:
            checked = self._checked(_apart(value))
        return self._dumped(
            checked, mode="json", by_alias=True, warnings=False, context=lifted, fallback=_Fallback(lifted)
        )

    def _require_finite(self, value: Any, dumped: Any) -> None:
        """Refuse NaN in what the model gave, and in what its types make of that."""
        where = _not_finite(_apart(value))
        if where is None:
            where = _not_finite(dumped)
        if where is not None:
            place = dotted(where) or "the whole"
            raise CallFailed(
                "failed",
                f"the model broke its contract: of what {self._what}, {place} is NaN or infinite, "
                "which JSON cannot hold",
            )


def _may_not_be_finite(written: bytes) -> bool:
    """Return whether JSON may have held NaN or an infinity: pydantic writes null for them, or their names."""
    return b"null" in written or b"NaN" in written or b"Infinity" in written


def _not_finite(value: Any, path: tuple[str | int, ...] = ()) -> tuple[str | int, ...] | None:
    """Return the place of the first number that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    if isinstance(value, dict):
        places = (_not_finite(inner, (*path, str(name))) for name, inner in value.items())
    elif isinstance(value, list | tuple):
        places = (_not_finite(inner, (*path, index)) for index, inner in enumerate(value))
    else:
        return None
    return next((place for place in places if place is not None), None)


def _dump_anything(value: Any) -> Any:
    lifted = Lifted(_MARK)
    return pydantic_core.to_jsonable_python(
        value, fallback=_Fallback(lifted), context=lifted, bytes_mode="base64", inf_nan_mode="constants"
    )


class _Fallback:
    """What pydantic does not know how to write: media, and values of numpy."""

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


# Media into and out of JSON


def _decoded(given: bytes) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return None


def _place(given: bytes, segments: Sequence[Segment]) -> Any:
    """The input with its media where they stand; raises CallFailed."""
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise CallFailed("bad_input", f"is not valid JSON: {error}") from None
    for segment in segments:
        place, key = value, None
        try:
            for key in segment.path[:-1]:
                place = place[key]
            key = segment.path[-1]
            place[key]  # it must stand there
            place[key] = File(segment.data, segment.media_type, segment.name)
        except (LookupError, TypeError):
            raise CallFailed("bad_input", f"takes no media: {NO_INPUT}", field=dotted(segment.path)) from None
        except ValueError as error:
            raise CallFailed("bad_input", str(error), field=dotted(segment.path)) from None
    return value


def _take_out(written: bytes, lifted: Lifted) -> Output:
    """An output whose placeholders become null, each with its segment."""
    found: dict[int, tuple[str | int, ...]] = {}

    def look(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, str) and value.startswith(lifted.mark):
            found[int(value[len(lifted.mark) :])] = path
            return None
        if isinstance(value, dict):
            return {key: look(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [look(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    without = look(json.loads(written), ())
    segments = [
        Segment(file.data, file.media_type, found[index], file.name)
        for index, file in enumerate(lifted.files)
        if index in found
    ]
    return Output(json.dumps(without, ensure_ascii=False, separators=(",", ":")).encode(), segments)


def _of_numpy(value: Any) -> Any:
    np: Any = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _apart(value: Any) -> Any:
    """Objects as dictionaries, numpy's as Python's own; media as they are."""
    if isinstance(value, BaseModel):
        return {name: _apart(inner) for name, inner in dict(value).items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _apart(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_of_numpy(key): _apart(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_apart(inner) for inner in value]
    return _of_numpy(value)
