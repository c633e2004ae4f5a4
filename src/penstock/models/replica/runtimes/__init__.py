"""The ways to execute a model, one file each. They run inside replicas, never in the gateway.

A runtime is a module here whose name is the runtime's, with one class that derives from ``Runtime`` and has that name.
Nothing else needs to know it.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from penstock.models.replica.runtime import Runtime


@cache
def names() -> tuple[str, ...]:
    """All runtimes."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> type[Runtime]:
    """The runtime of that name; raises KeyError. Imports its module, and with it what that needs."""
    if name not in names():
        raise KeyError(name)
    module = import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Runtime) and getattr(value, "name", None) == name:
            return value
    raise KeyError(name)
