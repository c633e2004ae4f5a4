"""Load the files of a folder of flows: each file is a module, and each folder a package, of its own."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Collection
from importlib.abc import Loader
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Final

from penstock.flows.kernel import origins
from penstock.flows.kernel.declaration import Flow, take_registered
from penstock.flows.program.checking import NotAllowed, checked_code
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.errors import described, shortened

_MAX_FILES: Final = 1000


class Loaded:
    """The flows of a folder, and why some of its files could not be loaded."""

    def __init__(self) -> None:
        self.flows: dict[tuple[str, str], Flow[..., Any]] = {}
        self.files: dict[tuple[str, str], str] = {}
        self.problems: dict[str, str] = {}


def load(folder: Path, *, skipped: Collection[str], loading: Callable[[str], None]) -> Loaded:
    """Load all files except the ``skipped`` ones; call ``loading`` before each. No error leaves this function."""
    loaded = Loaded()
    origins.add_folder(str(folder))
    sys.dont_write_bytecode = True
    sys.path_hooks.insert(0, _hook(folder))
    sys.path.append(str(folder))
    sys.path_importer_cache.clear()
    for path in _files(folder):
        file = str(path.relative_to(folder))
        if file in skipped:
            continue
        loading(file)
        take_registered()
        try:
            _import(path)
        except BaseException as error:  # noqa: BLE001  (foreign code; whatever it raises concerns this file only)
            loaded.problems[file] = _reason(error, folder)
            continue
        _add(loaded, file)
    return loaded


def _add(loaded: Loaded, file: str) -> None:
    for flow in take_registered():
        key = (flow.name, flow.version)
        if key in loaded.flows:
            loaded.problems[file] = (
                f"flow {flow.name} version {flow.version} is also defined in {loaded.files[key]}, which is used"
            )
        else:
            loaded.flows[key], loaded.files[key] = flow, file


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    return sorted(path for path in found if not _name(path).startswith(("_", ".", "test_")))[:_MAX_FILES]


def _name(path: Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def _import(path: Path) -> None:
    name = _name(path)
    if not name.isidentifier():
        raise ImportError(f"{name} cannot be the name of a module: use letters, digits and _")
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return  # another file has already imported it
    found = importlib.util.find_spec(name)
    if found is None or found.origin != str(path) or name in sys.modules:
        where = "another module" if found is None else found.origin
        raise ImportError(f"its name is that of {where}: rename the file")
    importlib.import_module(name)


def _hook(folder: Path) -> Callable[[str], Any]:
    def find(path: str) -> FileFinder:
        if not Path(path).is_relative_to(folder):
            raise ImportError(f"{path} is not a folder of flows")
        loaders: list[tuple[type[Loader], list[str]]] = [
            (_FlowLoader, [".py"]),
            (ExtensionFileLoader, list(EXTENSION_SUFFIXES)),
        ]
        return FileFinder(path, *loaders)

    return find


class _FlowLoader(SourceFileLoader):
    """Loads source after checking it for forbidden calls; it never uses a cache."""

    def path_stats(self, path: str) -> Any:
        raise OSError(f"{path} is not cached")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        return checked_code(data, str(path))


def _reason(error: BaseException, folder: Path) -> str:
    if isinstance(error, ContractError | NotAllowed):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return shortened(f"line {lines[-1]}: {described(error)}" if lines else described(error))
