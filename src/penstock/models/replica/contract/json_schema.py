"""Types as JSON Schema."""

from __future__ import annotations

from typing import Any, Literal, get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from penstock.models.replica.contract.signature import bare, name_of

Mode = Literal["validation", "serialization"]


class _Plainly(GenerateJsonSchema):
    """JSON Schema as a person would write it: no titles made of names, nothing that only some engines support."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Ignore that a default which is not JSON is left out of the schema."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        described = super().decimal_schema(schema)
        for branch in described.get("anyOf", [described]):
            branch.pop("pattern", None)  # it uses lookahead, which engines with linear time do not support
        return described


def describe(adapter: TypeAdapter[Any], mode: Mode) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a type, as input or as output."""
    return adapter.json_schema(mode=mode, schema_generator=_Plainly)


def trouble(hint: Any, mode: Mode) -> str | None:
    """Return why a type cannot be described, for the model's author; None where it can."""
    try:
        describe(TypeAdapter(hint), mode)
    except Exception as error:  # noqa: BLE001  (types of the model's bring code of their own)
        home = getattr(get_origin(bare(hint)) or bare(hint), "__module__", "").partition(".")[0]
        if home == "numpy":
            return "a numpy array is annotated as Annotated[numpy.ndarray, penstock.Array(dtype, shape)]"
        if home == "PIL":
            return "a picture is annotated as penstock.Image, whose open() gives Pillow's"
        return f"{name_of(hint)} cannot be described as JSON: {short(error)}"
    return None


def short(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
