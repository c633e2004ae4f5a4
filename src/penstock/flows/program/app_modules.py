"""The modules of apps: the files of each app are modules of a package of its own.

So two apps may each have a file ``media.py``. The files of an app import each other relatively:
``from . import media``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from penstock.flows.program.folders import FlowFolders

_ROOT: Final = "penstock_apps"  # the package of the packages of apps


def install(folders: FlowFolders) -> None:
    """Create the packages of the apps, whose modules are imported when they are needed."""
    _package(_ROOT, [])
    for app in folders.app_folders():
        _package(package_of(app), [str(app)])


def package_of(app: Path) -> str:
    """Return the name of the package of an app."""
    return f"{_ROOT}.{app.name.replace('.', '_')}"


def _package(name: str, path: list[str]) -> None:
    package = ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package
