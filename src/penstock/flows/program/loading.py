"""Load the files of folders of flows: each file is a module, and each folder a package, of its own."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextvars import Context
from importlib.abc import Loader
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from penstock.flows.kernel import origins
from penstock.flows.kernel.declaration import Flow, take_registered
from penstock.flows.program import app_environment, app_modules
from penstock.flows.program.checking import NotAllowed, checked_code
from penstock.flows.program.folders import FlowFolders, module_name
from penstock.models.replica.contract.signature import ContractError
from penstock.models.replica.errors import described, shortened


class Loaded:
    """The flows of some folders, and why some of their files could not be loaded, by path."""

    def __init__(self, folders: FlowFolders) -> None:
        self.folders = folders
        self.flows: dict[tuple[str, str], Flow[..., Any]] = {}
        self.files: dict[tuple[str, str], Path] = {}
        self.problems: dict[str, str] = {}


def load(
    folders: FlowFolders,
    *,
    skipped: Collection[str],
    loading: Callable[[str], None],
    variables: Mapping[str, Mapping[str, str]] | None = None,
) -> Loaded:
    """Load all files except the ``skipped`` ones; call ``loading`` before each. No error leaves this function.

    ``variables`` are the defaults of environment variables for the code of each app, by the name of its folder.
    """
    variables = variables or {}
    loaded = Loaded(folders)
    for root in folders.roots:
        origins.add_folder(str(root))
    sys.dont_write_bytecode = True
    sys.path_hooks.insert(0, _hook(folders))
    if folders.flows is not None:
        sys.path.append(str(folders.flows))
    app_modules.install(folders)
    app_environment.install({app_modules.package_of(app): variables.get(app.name, {}) for app in folders.app_folders()})
    sys.path_importer_cache.clear()
    for path in folders.files():
        if str(path) in skipped:
            continue
        loading(str(path))
        take_registered()
        context = _context(path, folders)
        try:
            context.run(_import, path, folders)
        except BaseException as error:  # noqa: BLE001  (foreign code; whatever it raises concerns this file only)
            loaded.problems[str(path)] = _reason(error, folders)
            continue
        _add(loaded, path, context)
    return loaded


def _context(path: Path, folders: FlowFolders) -> Context:
    """Return the context of a file's code: that of its app, or an empty one."""
    home = folders.home(path)
    is_app = home is not None and home != folders.flows
    return app_environment.context_of(app_modules.package_of(home)) if is_app and home is not None else Context()


def _add(loaded: Loaded, path: Path, context: Context) -> None:
    for flow in take_registered():
        flow.context = context
        key = (flow.name, flow.version)
        if key in loaded.flows:
            there = loaded.folders.label(loaded.files[key])
            loaded.problems[str(path)] = (
                f"flow {flow.name} version {flow.version} is also defined in {there}, which is used"
            )
        else:
            loaded.flows[key], loaded.files[key] = flow, path


def _import(path: Path, folders: FlowFolders) -> None:
    name = module_name(path)
    if not name.isidentifier():
        raise ImportError(f"{name} cannot be the name of a module: use letters, digits and _")
    app = folders.home(path)
    if app is not None and app != folders.flows:
        importlib.import_module(f"{app_modules.package_of(app)}.{name}")
        return
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return  # another file has already imported it
    found = importlib.util.find_spec(name)
    if found is None or found.origin != str(path) or name in sys.modules:
        where = "another module" if found is None else found.origin
        raise ImportError(f"its name is that of {where}: rename the file")
    importlib.import_module(name)


def _hook(folders: FlowFolders) -> Callable[[str], Any]:
    def find(path: str) -> FileFinder:
        if not any(Path(path).is_relative_to(root) for root in folders.roots):
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


def _reason(error: BaseException, folders: FlowFolders) -> str:
    if isinstance(error, ContractError | NotAllowed):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if folders.home(Path(frame.filename)) is not None
    ]
    if not frames:
        return shortened(described(error))
    hint = _import_hint(error, folders.home(Path(frames[-1].filename)))
    return shortened(f"line {frames[-1].lineno}: {described(error)}{hint}")


def _import_hint(error: BaseException, home: Path | None) -> str:
    """Return how to import a module that was not found but is a file of the same app."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or home is None:
        return ""
    first = error.name.partition(".")[0]
    if not (home / f"{first}.py").is_file() and not (home / first / "__init__.py").is_file():
        return ""
    return f": import files of the same app relatively, as in `from .{error.name} import …` or `from . import {first}`"
