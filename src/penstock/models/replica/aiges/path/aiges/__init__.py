"""The package that wrappers import: the contract of Athena Serving's Python engines, in Penstock.

A wrapper runs in a replica of the runtime ``aiges``, or by itself while it is developed (``python wrapper.py``). Names,
signatures and numbers are those of the original package; ``docs/athena/wrappers.md`` states where it behaves better.

It needs msgspec and the standard library, and the package ``penstock`` that it is a part of.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _find_penstock() -> None:
    """Make the package ``penstock`` importable where the wrapper's interpreter does not have it installed."""
    if "penstock" in sys.modules:
        return
    root = Path(__file__).resolve().parents[5]
    spec = importlib.util.spec_from_file_location(
        "penstock", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None  # noqa: S101 - the file is a part of this installation
    assert spec.loader is not None  # noqa: S101
    package = importlib.util.module_from_spec(spec)
    sys.modules["penstock"] = package
    spec.loader.exec_module(package)


_find_penstock()
