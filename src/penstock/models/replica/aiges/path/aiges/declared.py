"""What a wrapper's class declares: its fields, its service, and which methods it has."""

from __future__ import annotations

import dis
import sys
from typing import Any

from aiges import replies
from aiges.fields import ParamField, PayloadField
from penstock.models.replica.aiges.fields import Service

_IDLE = frozenset({"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "POP_TOP", "CACHE"})


def fields_of(request: Any) -> tuple[list[PayloadField], list[ParamField]]:
    """Return the inputs and the parameters that a request class, or an instance of it, declares, in its order."""
    stated = _stated(request)
    return (
        [field for field in stated.values() if isinstance(field, PayloadField)],
        [field for field in stated.values() if isinstance(field, ParamField)],
    )


def accepts_of(response: Any) -> list[PayloadField]:
    """Return the outputs that a response class, or an instance of it, declares."""
    return [field for field in _stated(response).values() if isinstance(field, PayloadField)]


def service_of(wrapper: Any) -> Service:
    """Return the description of a wrapper's class, or of a wrapper."""
    inputs, params = fields_of(getattr(wrapper, "requestCls", None))
    outputs = accepts_of(getattr(wrapper, "responseCls", None))
    stated = {
        name: str(getattr(wrapper, attribute))
        for name, attribute in (("name", "serviceId"), ("version", "version"), *((n, n) for n in _NAMED))
        if isinstance(getattr(wrapper, attribute, None), str | int)
    }
    return Service(
        parameters=[field.described() for field in params],
        inputs=[field.described() for field in inputs],
        outputs=[field.described() for field in outputs],
        sessions=implements(wrapper, "wrapperCreate") and implements(wrapper, "wrapperWrite"),
        **stated,
    )


def implements(wrapper: Any, name: str) -> bool:
    """Return whether a wrapper has code of its own in a method. Published wrappers leave methods that they do not need
    empty, or with nothing but ``return None``."""
    from aiges.sdk import WrapperBase  # noqa: PLC0415  (sdk imports this module)

    method = getattr(wrapper, name, None)
    if method is None:
        return False
    function = getattr(method, "__func__", method)
    return function is not getattr(WrapperBase, name, None) and not _does_nothing(function)


def called_back(wrapper: Any) -> bool:
    """Return whether a wrapper sends the results of sessions by a callback; else ``wrapperRead`` returns them.

    Its module then has the callback, or our module of it, under some name.
    """
    if not implements(wrapper, "wrapperRead"):
        return True
    module = sys.modules.get(type(wrapper).__module__ if not isinstance(wrapper, type) else wrapper.__module__)
    return any(
        value is replies.callback or getattr(value, "callback", None) is replies.callback
        for value in vars(module).values()
    )


_NAMED = ("route", "sub", "call", "call_type", "hosts", "webgate_type")


def _does_nothing(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    return all(
        step.opname in _IDLE and (not step.opname.endswith("_CONST") or step.argval is None)
        for step in dis.get_instructions(code)
    )


def _stated(holder: Any) -> dict[str, Any]:
    """Return the attributes of a class, or of an instance's class, the base classes' first."""
    if holder is None:
        return {}
    owner = holder if isinstance(holder, type) else type(holder)
    found: dict[str, Any] = {}
    for one in reversed(owner.__mro__):
        found.update(vars(one))
    return found
