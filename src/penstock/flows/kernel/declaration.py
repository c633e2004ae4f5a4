"""Declare flows: a decorator for async functions with typed parameters and a typed result."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar

from penstock.failures import CallFailed, Category
from penstock.flows.kernel import origins
from penstock.flows.kernel.records import FlowDescription, OnParentEnd
from penstock.flows.kernel.values import MAX_VALUE_BYTES, encode
from penstock.models.replica.contract.inputs import Inputs
from penstock.models.replica.contract.outputs import Outputs
from penstock.models.replica.contract.signature import ContractError, FunctionSignature
from penstock.models.replica.data_urls import inlined

P = ParamSpec("P")
R = TypeVar("R")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_registered: Final[list[Flow[..., Any]]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """How the runs of a flow and their steps are executed, unless a submission or a call states otherwise."""

    priority: int | None = None
    step_max_attempts: int | None = None
    step_timeout: timedelta | None = None
    on_parent_end: OnParentEnd = OnParentEnd.CANCEL
    examples: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


class Flow(Generic[P, R]):
    """A declared flow. Calling it within another flow runs its code in place, as any async function."""

    def __init__(
        self, function: Callable[P, Awaitable[R]], name: str, version: str, description: str, options: FlowOptions
    ) -> None:
        """Raises ContractError."""
        self.function = function
        self.name = name
        self.version = version
        self.description = description
        self.options = options
        self.file = function.__code__.co_filename
        self.context = Context()  # in which its code begins
        signature = FunctionSignature(function.__name__, "flow")
        signature.problems += _problems(function, name, version)
        signature.read(function)
        if signature.streams:
            signature.problems.append("it yields: a flow returns one result; run.progress and run.publish report more")
        if signature.context is not None:
            signature.problems.append(f"parameter {signature.context} is a Context: flows use the functions of run")
        self._inputs = Inputs(signature)
        self._outputs = Outputs(signature)
        self.returns = signature.output
        signature.problems += self._wrong_examples(options.examples) if not signature.problems else []
        if signature.problems:
            raise ContractError(name, signature.problems, owner="flow")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flow {self.name}@{self.version}>"

    def arguments(self, given: bytes) -> dict[str, Any]:
        """Return the arguments of the function. Raises CallFailed (``bad_input``)."""
        return self._inputs.arguments(given, ())

    def result(self, value: object) -> bytes:
        """Return a result as JSON. Raises CallFailed if it is not of the annotated type, or is too large."""
        output = self._outputs.output(value)
        written = inlined(output.json, output.segments)
        if len(written) > MAX_VALUE_BYTES:
            raise CallFailed(Category.INTERNAL, f"its result takes {len(written)} of {MAX_VALUE_BYTES} bytes of JSON")
        return written

    def describe(self) -> FlowDescription:
        """Return the public description of the flow."""
        options = self.options
        return FlowDescription(
            name=self.name,
            version=self.version,
            file=self.file,
            description=self.description,
            input=self._inputs.schema,
            output=self._outputs.schema,
            examples=[dict(one) for one in options.examples],
            priority=options.priority,
        )

    def _wrong_examples(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        problems = []
        for index, example in enumerate(examples):
            try:
                self.arguments(encode(example, "it"))
            except (CallFailed, ValueError) as error:
                problems.append(f"examples[{index}]: {error}")
        return problems


def flow(
    *,
    name: str,
    version: str,
    description: str | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
    priority: int | None = None,
    step_max_attempts: int | None = None,
    step_timeout: timedelta | None = None,
    on_parent_end: OnParentEnd | str = OnParentEnd.CANCEL,
) -> Callable[[Callable[P, Awaitable[R]]], Flow[P, R]]:
    """Declare an async function as a flow.

    Its parameters become the fields of the input, its result the output; the docstring is the default
    ``description``. ``version`` names the code to which unfinished runs belong: give code that would issue other
    steps a new one. ``step_max_attempts`` and ``step_timeout`` (of an attempt) apply to calls that state none, and so
    does ``on_parent_end``: whether jobs that the flow has started are cancelled (``cancel``) or continue (``abandon``)
    when it ends. To limit a run, use ``asyncio.timeout``. Raises ContractError, which lists every mistake.
    """
    options = FlowOptions(
        priority=priority,
        step_max_attempts=step_max_attempts,
        step_timeout=step_timeout,
        on_parent_end=OnParentEnd(on_parent_end),
        examples=tuple(examples),
    )

    def declare(function: Callable[P, Awaitable[R]]) -> Flow[P, R]:
        words = inspect.cleandoc(function.__doc__ or "") if description is None else description
        declared = Flow(function, name, version, words, options)
        origins.add_file(declared.file)
        _registered.append(declared)
        return declared

    return declare


def take_registered() -> list[Flow[..., Any]]:
    """Return the flows that were declared since the last call."""
    taken = list(_registered)
    _registered.clear()
    return taken


def _problems(function: Callable[..., Any], name: str, version: str) -> list[str]:
    problems = []
    if not inspect.iscoroutinefunction(function):
        problems.append("it must be a plain `async def`")
    for what, text in (("name", name), ("version", version)):
        if not _NAME.fullmatch(text):
            problems.append(f"{what} must be 1 to 100 letters, digits, '.', '_' and '-', not {text!r}")
    return problems
