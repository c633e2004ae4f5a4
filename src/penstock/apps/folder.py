"""The operator's folder of apps: read the manifests, and what is wrong with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.apps.manifest import FILE_NAME, AppManifest, BrokenApp, read
from penstock.errors import FieldProblem
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_APPS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An app of the folder. ``manifest`` is its last valid one; None if it never was valid."""

    folder: Path
    manifest: AppManifest | None
    problems: tuple[FieldProblem, ...] = ()  # of its present app.toml

    @property
    def name(self) -> str:
        return self.folder.name if self.manifest is None else self.manifest.name


class AppsFolder:
    """``NAME/app.toml`` for each app. A mistake in one takes no other down."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.apps: dict[str, App] = {}  # by name
        self._scanning = threading.Lock()

    def scan(self) -> None:
        """Read all manifests. One that has become invalid keeps its last valid form until it is fixed or removed."""
        with self._scanning:  # scans run in threads, and two may overlap
            before = {app.folder: app.manifest for app in self.apps.values()}
            files = self._files()
            folders = {path.parent.name for path in files}
            found: dict[str, App] = {}
            for path in files:
                app = _read(path, before.get(path.parent))
                taken = _name_taken(app, found, folders)
                if taken is not None:  # it is reported by the name of its folder, which no other app can have
                    app = App(folder=app.folder, manifest=None, problems=(*app.problems, taken))
                found[app.name] = app
            self._log_changes(found)
            self.apps = found

    def variables(self) -> Mapping[str, Mapping[str, str]]:
        """Read the manifests again, and return the defaults of each app's variables, by its folder's name."""
        self.scan()
        return {app.folder.name: app.manifest.defaults() for app in self.apps.values() if app.manifest is not None}

    def _files(self) -> list[Path]:
        found = self.root.glob(f"*/{FILE_NAME}") if self.root.is_dir() else ()
        return sorted(path for path in found if path.parent.name[0] not in "._")[:_MAX_APPS]

    def _log_changes(self, found: Mapping[str, App]) -> None:
        for name, app in found.items():
            known = self.apps.get(name)
            if app.problems and (known is None or known.problems != app.problems):
                reasons = [f"{problem.field}: {problem.detail}" for problem in app.problems]
                log.warning("app_refused", file=f"{app.folder.name}{os.sep}{FILE_NAME}", reasons=reasons)


def _name_taken(app: App, found: Mapping[str, App], folders: Collection[str]) -> FieldProblem | None:
    """Return the problem of an app whose manifest names it after another app, or after another app's folder."""
    if app.name == app.folder.name or (app.name not in found and app.name not in folders):
        return None
    there = app.name if app.name in folders else found[app.name].folder.name
    return FieldProblem(field="name", detail=f"{app.name} is also the name of the app in {there}/")


def _read(path: Path, before: AppManifest | None) -> App:
    try:
        return App(folder=path.parent, manifest=read(path))
    except BrokenApp as error:
        return App(folder=path.parent, manifest=before, problems=error.problems)
