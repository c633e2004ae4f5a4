"""Import the class of a model."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from penstock.failures import CallFailed, Category


def imported(where: str, folder: Path) -> type:
    """Return the class ``module:Class``; raises CallFailed. The manifest's folder comes first on the path, so that its
    module is found even if an installed package has the same name."""
    module, _, name = where.partition(":")
    place = str(folder.absolute())
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        found: Any = import_module(module)
    except Exception as error:  # a model's module may raise anything
        traceback.print_exc()  # for the model's log
        raise CallFailed(
            Category.UNAVAILABLE, f"{module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CallFailed(Category.UNAVAILABLE, f"{module} has no class {name}") from None
    if not isinstance(found, type):
        raise CallFailed(Category.UNAVAILABLE, f"{where} is a {type(found).__name__}, not a class")
    return found
