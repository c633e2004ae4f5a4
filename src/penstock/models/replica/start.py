"""The entry point of a replica's process. Executed by path, never imported.

    python start.py DATA_FD CONTROL_FD ARENA_FD

The interpreter may belong to the model and lack Penstock. The package is then imported from the location of this file,
without adding the folder of all our dependencies to the path. Such an interpreter needs msgspec, and pydantic for
python models.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the package


def main() -> None:
    if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
        del sys.path[0]  # modules must not be imported from the folder of this script
    spec = importlib.util.spec_from_file_location(
        "penstock", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        sys.exit(f"the package at {ROOT} cannot be imported")
    package = importlib.util.module_from_spec(spec)
    sys.modules["penstock"] = package
    spec.loader.exec_module(package)
    try:
        from penstock.models.replica.process import run  # noqa: PLC0415  (only now can it be found)
    except ModuleNotFoundError as error:
        sys.exit(
            f"{sys.executable} cannot run models: it has no module {error.name!r}. Install msgspec and pydantic in it."
        )
    run(*map(int, sys.argv[1:4]))


main()
