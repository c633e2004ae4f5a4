"""Parameters of engines that arrive as texts, with the types that the engine declares."""

from __future__ import annotations

import msgspec

from penstock.athena.protocol.addressing import ServiceRequest
from penstock.athena.protocol.data import Scalar
from penstock.models.replica.aiges.fields import Parameter, Service

_NUMBERS = frozenset({"integer", "number"})


def with_types(request: ServiceRequest, engine: Service) -> ServiceRequest:
    """Return a request whose texts are numbers and booleans where the engine declares such parameters.

    A text that is not what is declared stays as it is, for the check of the engine's schema to refuse.
    """
    declared = {one.key: one for one in engine.parameters}
    request.values = {
        name: _typed(value, declared[name]) if name in declared else value for name, value in request.values.items()
    }
    return request


def _typed(value: Scalar, parameter: Parameter) -> Scalar:
    if not isinstance(value, str):
        return value
    if parameter.type == "boolean":
        return {"true": True, "false": False}.get(value, value)
    if parameter.type in _NUMBERS:
        try:
            found = msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return value
        return found if isinstance(found, int | float) and not isinstance(found, bool) else value
    return value
