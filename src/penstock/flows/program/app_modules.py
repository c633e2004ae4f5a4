"""The modules of apps: the files of an app import each other by name, and do not meet those of other apps.

The files of an app are modules of a package of its own, so two apps may each have a file ``media.py``. An import of
``media`` in a file of an app finds the file of that app; if it has none, the import works as everywhere.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from penstock.flows.program.folders import FlowFolders

_ROOT: Final = "penstock_apps"  # the package of the packages of apps
_import: Final = builtins.__import__


def install(folders: FlowFolders) -> None:
    """Create the packages of the apps, whose modules are imported when they are needed."""
    _package(_ROOT, [])
    for app in folders.app_folders():
        _package(package_of(app), [str(app)])


def package_of(app: Path) -> str:
    """Return the name of the package of an app."""
    return f"{_ROOT}.{app.name.replace('.', '_')}"


def prepare(module: ModuleType) -> None:
    """Let imports in a module of an app, which is about to be executed, find the files of that app first."""
    parts = module.__name__.split(".")
    if parts[0] == _ROOT and len(parts) > 2:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Importer(".".join(parts[:2]))}


class _Importer:
    """What ``import`` calls in the modules of one app."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._folder = Path(sys.modules[package].__path__[0])

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  (the names of the function that it stands in for)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        first = name.partition(".")[0]
        if level or not self._has(first):
            return _import(name, globals, locals, fromlist, level)
        if fromlist:
            return _import(f"{self._package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{self._package}.{name}")
        return sys.modules[f"{self._package}.{first}"]

    def _has(self, name: str) -> bool:
        return (self._folder / f"{name}.py").is_file() or (self._folder / name / "__init__.py").is_file()


def _package(name: str, path: list[str]) -> None:
    package = ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package
