"""Read a class as a model: the inputs and outputs of its methods, and every mistake in them."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Annotated, Any, Final, NotRequired, Required, get_args, get_origin

import pydantic
import typing_extensions
from pydantic.fields import FieldInfo

from penstock.models.replica.contract.context import Context

_STREAMS: Final = (Iterator, Generator, AsyncIterator, AsyncGenerator)
_LOOSE_STREAMS: Final = (*_STREAMS, Iterable, AsyncIterable)  # what a generator function may be annotated with
_PARTS: Final = (Iterator, Iterable, AsyncIterator, AsyncIterable)
_LISTS: Final = (list, Sequence)


class ContractError(Exception):
    """A class cannot be a model, or a function a flow. ``problems`` names every mistake and what is allowed."""

    def __init__(self, name: str, problems: Sequence[str], *, owner: str = "model") -> None:
        super().__init__("\n".join([f"{name} is not a {owner}:", *(f"- {problem}" for problem in problems)]))
        self.problems = tuple(problems)


class FunctionSignature:
    """A function read by its annotations; reading collects mistakes in ``problems``.

    ``function`` is the name of the function in messages, and ``owner`` the kind of thing that it belongs to.
    """

    def __init__(self, function: str, owner: str) -> None:
        self.function = function
        self.owner = owner
        self.problems: list[str] = []
        self.context: str | None = None
        self.inputs: dict[str, Any] = {}  # parameter → annotation as a typed dictionary's
        self.output: Any = Any
        self.streams = self.asynchronous = False

    def read(self, function: Callable[..., Any]) -> None:
        """Read the parameters and the result of the function."""
        hints = self._hints(function, self.function)
        self._read_parameters(function, hints)
        self._read_result(function, hints)

    def _hints(self, function: Callable[..., Any], name: str) -> dict[str, Any]:
        try:
            return typing_extensions.get_type_hints(function, include_extras=True)
        except Exception as error:  # noqa: BLE001  (evaluating annotations runs code of the model's)
            self.problems.append(
                f"the annotations of {name} cannot be read: {error} (names in them must be known where it is defined)"
            )
            return {}

    def _read_parameters(self, function: Callable[..., Any], hints: Mapping[str, Any]) -> None:
        for parameter in _parameters(function):
            name = parameter.name
            if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                self.problems.append(
                    f"{self.function} takes {stars}{name}: every input must be a parameter with a name"
                )
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                self.problems.append(
                    f"parameter {name} of {self.function} is positional only: it must be one that can be named"
                )
            elif name.startswith("_"):
                self.problems.append(
                    f"parameter {name} of {self.function} begins with an underscore: it is the name of an input"
                )
            elif parameter.annotation is parameter.empty:
                self.problems.append(
                    f"parameter {name} of {self.function} has no annotation: it becomes the input's JSON Schema"
                )
            elif name in hints:
                self._read_parameter(name, hints[name], parameter.default)

    def _read_parameter(self, name: str, hint: Any, default: Any) -> None:
        if _is_context(hint):
            self.context = name
        else:
            self.inputs[name] = _field(hint, default)

    def _read_result(self, function: Callable[..., Any], hints: Mapping[str, Any]) -> None:
        inner = inspect.unwrap(function)
        generates = inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)
        stated = hints.get("return", Any)
        origin = get_origin(stated) or stated
        self.streams = generates or origin in _STREAMS
        self.asynchronous = (
            inspect.iscoroutinefunction(inner)
            or inspect.isasyncgenfunction(inner)
            or origin in {AsyncIterator, AsyncGenerator}
        )
        if not self.streams:
            self.output = stated
        elif origin in _LOOSE_STREAMS:
            self.output = (get_args(stated) or (Any,))[0]
        elif stated is not Any:
            self.problems.append(
                f"{self.function} yields, so it must be annotated as Iterator[…] of what it yields, not {stated}"
            )


class SessionSignature(FunctionSignature):
    """The method ``session`` of a model: one parameter iterates over the parts, the others are the first input."""

    def __init__(self) -> None:
        super().__init__("session", "model")
        self.parts = ""  # the parameter
        self.part: Any = Any  # annotation of one part
        self.awaits_parts = False

    def read(self, function: Callable[..., Any]) -> None:
        super().read(function)
        if not self.parts and not self.problems:
            self.problems.append("session has no parameter for the parts, annotated as Iterator[…] of one part")

    def _read_parameter(self, name: str, hint: Any, default: Any) -> None:
        origin = get_origin(bare(hint)) or bare(hint)
        if origin not in _PARTS:
            super()._read_parameter(name, hint, default)
        elif self.parts:
            self.problems.append(
                f"parameters {self.parts} and {name} of session are both iterators: one takes the parts"
            )
        else:
            self.parts = name
            self.part = (get_args(bare(hint)) or (Any,))[0]
            self.awaits_parts = origin in {AsyncIterator, AsyncIterable}


class Signature(FunctionSignature):
    """A class read as a model."""

    def __init__(self, model: type) -> None:
        super().__init__("predict", "model")
        self.batches = False
        self.session: SessionSignature | None = None  # None: it takes no sessions
        predict = _function(model, "predict")
        if predict is None:
            self.problems.append("it has no method predict")
            return
        self.read(predict)
        batch = _function(model, "predict_batch")
        if batch is not None:
            self.batches = True
            self._read_batch(batch)
        session = _function(model, "session")
        if session is not None:
            self.session = SessionSignature()
            self.session.read(session)
            self._check_session(self.session)
        for name in ("load", "unload"):
            self._check_plain(_function(model, name), name)

    def _read_batch(self, batch: Callable[..., Any]) -> None:
        if self.streams:
            self.problems.append("a model whose predict yields cannot have predict_batch")
        if inspect.iscoroutinefunction(inspect.unwrap(batch)) != self.asynchronous:
            kind = "async def" if self.asynchronous else "def"
            self.problems.append(f"predict_batch must be a plain `{kind}`, as predict is")
        parameters = _parameters(batch)
        hints = self._hints(batch, "predict_batch")
        if len(parameters) != 1 or parameters[0].kind in {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }:
            self.problems.append("predict_batch must take exactly one parameter: the list of the calls' inputs")
        elif (hint := hints.get(parameters[0].name)) is not None:
            self._check_batch_input(parameters[0].name, hint)
        given = hints.get("return", list)
        if (get_origin(given) or given) not in _LISTS:
            self.problems.append(f"predict_batch must return a list, one result for each call, not {given}")

    def _check_batch_input(self, name: str, hint: Any) -> None:
        if (get_origin(hint) or hint) not in _LISTS:
            self.problems.append(
                f"parameter {name} of predict_batch must be a list, one element for each call, not {hint}"
            )
            return
        if len(self.inputs) != 1 or not get_args(hint):
            return
        (only,) = self.inputs.values()
        one, many = bare(only), bare(get_args(hint)[0])
        if many is not Any and one != many:
            self.problems.append(
                f"parameter {name} of predict_batch must be a list of what predict takes: {one}, not {many}"
            )

    def _check_session(self, session: SessionSignature) -> None:
        if session.asynchronous != self.asynchronous:
            kind = "async def" if self.asynchronous else "def"
            session.problems.append(f"session must be a plain `{kind}`, as predict is")
        elif session.parts and session.awaits_parts != self.asynchronous:
            kind = "AsyncIterator" if self.asynchronous else "Iterator"
            session.problems.append(f"parameter {session.parts} of session must be annotated as {kind}[…]")
        self.problems += session.problems

    def _check_plain(self, function: Callable[..., Any] | None, name: str) -> None:
        if function is None:
            return
        if any(parameter.default is parameter.empty for parameter in _parameters(function)):
            self.problems.append(f"{name} must take nothing but self")


def _function(model: type, name: str) -> Callable[..., Any] | None:
    found = inspect.getattr_static(model, name, None)
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if callable(found) else None


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function without ``self``."""
    parameters = list(inspect.signature(function).parameters.values())
    return parameters[1:] if parameters and parameters[0].name in {"self", "cls"} else parameters


def _field(hint: Any, default: Any) -> Any:
    """Return a parameter as the field of a typed dictionary."""
    if isinstance(default, FieldInfo):  # `x: int = Field(5, ge=1)`
        needed = default.is_required()
        hint = Annotated[hint, default]
    elif default is not inspect.Parameter.empty:
        needed = False
        hint = Annotated[hint, pydantic.Field(default=default)]
    else:
        stated = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, FieldInfo)]
        needed = all(part.is_required() for part in stated)
    return Required[hint] if needed else NotRequired[hint]


def bare(hint: Any) -> Any:
    while get_origin(hint) in {Annotated, Required, NotRequired}:
        hint = get_args(hint)[0]
    return hint


def _is_context(hint: Any) -> bool:
    return hint is Context or Context in get_args(hint)


def name_of(hint: Any) -> str:
    plain = bare(hint)
    return plain.__qualname__ if isinstance(plain, type) else str(plain)


def description(model: type) -> str:
    predict = _function(model, "predict")
    return inspect.cleandoc((predict.__doc__ if predict else None) or model.__doc__ or "")
