"""The registry of runtimes: the ways to execute a model, one file each.

They run inside replicas. A host imports one to check manifests and to read its traits, never to call a model.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Final

from penstock.models.replica.runtime import Runtime

_CLASSES: Final = {  # module:class; a replica imports only what its own runtime needs
    "aiges": "aiges:AigesRuntime",
    "aiges-native": "aiges_native:AigesNativeRuntime",
    "aiges-plugin": "aiges_plugin:AigesPluginRuntime",
    "http": "http:HttpRuntime",
    "native": "native:NativeRuntime",
    "openai": "openai:OpenaiRuntime",
    "python": "python:PythonRuntime",
    "subprocess": "subprocess:SubprocessRuntime",
}
NAMES: Final = tuple(_CLASSES)


@cache
def find(name: str) -> type[Runtime]:
    """Return the runtime of that name, which also imports its dependencies. Raises KeyError."""
    module, _, class_name = _CLASSES[name].partition(":")
    found: type[Runtime] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return found


def registrable() -> tuple[str, ...]:
    """Return the names of the runtimes whose models may be registered over HTTP."""
    return tuple(name for name in NAMES if find(name).registrable)
