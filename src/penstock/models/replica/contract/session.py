"""Convert what a session takes, its first input and its parts, to values, and its chunks back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Required

from pydantic import TypeAdapter

from penstock.models.replica.contract.inputs import Inputs
from penstock.models.replica.contract.json_schema import describe, short, trouble
from penstock.models.replica.contract.outputs import Outputs
from penstock.models.replica.contract.signature import FunctionSignature, SessionSignature
from penstock.models.replica.runtime import Output, Segment, SessionSchema
from penstock.models.replica.sessions import Part

_PART: Final = "part"  # the name of a part in messages: ``part.audio``


class SessionContract:
    """What the sessions of a class take and send. Mistakes in the annotations are added to the signature's problems."""

    def __init__(self, signature: SessionSignature) -> None:
        self.streams: Final = signature.streams
        self.context: Final = signature.context  # the parameter that takes the Context
        self.parts: Final = signature.parts  # the parameter that iterates over the parts
        self._inputs = Inputs(signature)
        self._outputs = Outputs(signature)
        self._parts = Inputs(_one_part(signature))
        self.schema: Final = SessionSchema(
            input=self._inputs.schema, part=_schema_of_part(signature), output=self._outputs.schema
        )

    def arguments(self, input: bytes, segments: Sequence[Segment] = ()) -> dict[str, Any]:  # noqa: A002
        """Return the keyword arguments of ``session``, without the parts and the Context. Raises CallFailed
        (``bad_input``)."""
        return self._inputs.arguments(input, segments)

    def value(self, part: Part) -> Any:
        """Return a part as the model takes it. Raises CallFailed (``bad_input``), which names fields of ``part``."""
        segments = [
            Segment(segment.data, segment.media_type, (_PART, *segment.path), segment.name) for segment in part.segments
        ]
        return self._parts.arguments(b'{"part":%b}' % part.json, segments)[_PART]

    def output(self, value: Any) -> Output:
        """Return what ``session`` returned or yielded as JSON and media. Raises CallFailed (``internal``)."""
        return self._outputs.output(value)


def _one_part(signature: SessionSignature) -> FunctionSignature:
    """Return the signature of a function whose only parameter is a part."""
    single = FunctionSignature(signature.function, signature.owner)
    single.inputs = {_PART: Required[signature.part]}
    return single


def _schema_of_part(signature: SessionSignature) -> dict[str, Any]:
    if signature.part is Any:
        return {}
    try:
        return describe(TypeAdapter(signature.part), "validation")
    except Exception as error:  # noqa: BLE001  (the model's types may run code of their own)
        what = trouble(signature.part, "validation") or short(error)
        signature.problems.append(f"a part of {signature.parts}: {what}")
        return {}
