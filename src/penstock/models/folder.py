"""The operator's folder of manifests: read it, and watch it for changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final

from penstock.models import manifest
from penstock.models.manifest import FILE_NAME, BrokenManifest, Key, Model
from penstock.processes.watching import watch
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_MANIFESTS: Final = 1000  # manifests


class ModelsFolder:
    """One folder: ``NAME.toml``, or ``NAME/model.toml``, for each model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: dict[Key, Model] = {}
        self.files: dict[Key, str] = {}  # the file of each, relative to the folder
        self.problems: dict[str, str] = {}  # by file
        self.broken: dict[str, BrokenManifest] = {}  # invalid manifests, by file
        self._scanning = threading.Lock()

    def scan(self) -> None:
        """Read all manifests; errors are stored in ``problems``. An error in one does not affect the others.

        A manifest that has become invalid keeps its last valid form until it is fixed or removed.
        """
        with self._scanning:  # scans run in threads, and two may overlap
            self._scan()

    def _scan(self) -> None:
        before = {file: self.models[key] for key, file in self.files.items()}
        models: dict[Key, Model] = {}
        files: dict[Key, str] = {}
        problems: dict[str, str] = {}
        broken: dict[str, BrokenManifest] = {}
        for path in self._files():
            file = str(path.relative_to(self.path))
            try:
                model = manifest.read(path)
            except BrokenManifest as error:
                problems[file], broken[file] = error.message, error
                continue
            key = model.key
            if key in models:
                problems[file] = f"model {model.name} version {model.version} is also defined in {files[key]}"
            else:
                models[key], files[key] = model, file
        for file in problems.keys() & before.keys():  # use the last valid form, unless another file defines the model
            key = before[file].key
            if key not in models:
                models[key], files[key] = before[file], file
        for file, reason in problems.items():
            if self.problems.get(file) != reason:
                log.warning("manifest_refused", file=file, reason=reason)
        self.models, self.files, self.problems, self.broken = models, files, problems, broken

    def find(self, name: str, version: str) -> Model | None:
        """Return the model of the present manifest; None if there is none, or if it cannot be used."""
        key = (None, name, version)
        return None if self.files.get(key) in self.problems else self.models.get(key)

    def has(self, name: str) -> bool:
        """Return whether there is a manifest, valid or not, for a model of that name."""
        return any(model.name == name for model in self.models.values()) or any(
            one.model == name for one in self.broken.values()
        )

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        found = [*self.path.glob("*.toml"), *self.path.glob(f"*/{FILE_NAME}")]
        hidden = [file for file in found if any(part.startswith(".") for part in file.relative_to(self.path).parts)]
        return sorted(set(found) - set(hidden))[:_MAX_MANIFESTS]

    def concerns_manifests(self, changed: Path) -> bool:
        """Return whether a change may concern a manifest. A manifest may lack any file beside it, such as a library."""
        return bool(self.problems) or changed.suffix == ".toml" or changed.parent == self.path

    async def watch(self, on_change: Callable[[Collection[Path]], Awaitable[None]], stopping: asyncio.Event) -> None:
        """Call ``on_change`` with the files that have changed, or with none if they are not known, until ``stopping``.
        The folder may appear and disappear at any time."""
        await watch(self.path, on_change, stopping)
