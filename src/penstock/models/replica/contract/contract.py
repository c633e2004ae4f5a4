"""Derive the JSON Schema of a class with a typed ``predict``, and convert JSON to its arguments and back.

Pydantic's validators are built once, when a model is described; a call only runs them. Media are sent beside the JSON:
they are inserted into the input, and extracted from the output, at their paths.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.failures import CallFailed, Category
from penstock.models.replica.contract.context import BadInput
from penstock.models.replica.contract.inputs import Inputs
from penstock.models.replica.contract.outputs import Outputs
from penstock.models.replica.contract.session import SessionContract
from penstock.models.replica.contract.signature import ContractError, Signature, description
from penstock.models.replica.runtime import Output, Schema, Segment


class Contract:
    """The inputs and outputs of one class."""

    def __init__(self, model: type) -> None:
        """Raises ContractError."""
        signature = Signature(model)
        self.model = model
        self.streams: Final = signature.streams
        self.batches: Final = signature.batches
        self.asynchronous: Final = signature.asynchronous
        self.context: Final = signature.context  # the parameter that takes the Context
        self.parameters: Final = tuple(signature.inputs)
        self._inputs = Inputs(signature)
        self._outputs = Outputs(signature)
        self.session: Final = None if signature.session is None else SessionContract(signature.session)
        if signature.session is not None:
            signature.problems += [one for one in signature.session.problems if one not in signature.problems]
        if signature.problems:
            raise ContractError(model.__qualname__, signature.problems)
        self.schema: Final = Schema(
            input=self._inputs.schema,
            output=self._outputs.schema,
            description=description(model),
            streams=self.streams,
            batches=self.batches,
            cancels=True,
            session=None if self.session is None else self.session.schema,
        )
        self._together = namedtuple("Inputs", self.parameters)  # type: ignore[misc]  # noqa: PYI024  (its names are known here)

    def arguments(self, input: bytes, segments: Sequence[Segment] = ()) -> dict[str, Any]:  # noqa: A002
        """Return the keyword arguments of ``predict``, without the Context. Raises CallFailed (``bad_input``)."""
        return self._inputs.arguments(input, segments)

    def element(self, arguments: Mapping[str, Any]) -> Any:
        """Return a call's arguments as an element of the list for ``predict_batch``: the value of the only parameter,
        or an object with all of them as attributes."""
        if len(self.parameters) == 1:
            return arguments[self.parameters[0]]
        return self._together(**arguments)

    def output(self, value: Any) -> Output:
        """Return what ``predict`` returned or yielded as JSON and media.

        Raises CallFailed (``internal``) when it is not of the annotated type, or holds NaN or an infinity, which JSON
        does not have.
        """
        return self._outputs.output(value)


def bad_input(error: BadInput) -> CallFailed:
    """Return a model's refusal as the failure of its call."""
    return CallFailed(Category.BAD_INPUT, error.message, field=error.field)
