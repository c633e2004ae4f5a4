"""The operator's folders of manifests: read them, and watch them for changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.models import aiges_file, manifest
from penstock.models.aiges_keys import Note
from penstock.models.manifest import FILE_NAME, BrokenManifest, Key, Model
from penstock.processes.watching import watch
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_MANIFESTS: Final = 1000  # manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFiles:
    """Where manifests are: files in and below ``root`` that match ``patterns``."""

    root: Path
    patterns: tuple[str, ...] = ("*.toml", f"*/{FILE_NAME}", f"*/{aiges_file.FILE_NAME}")
    variables: Callable[[], Mapping[str, Mapping[str, str]]] = dict

    @classmethod
    def of_apps(cls, root: Path, variables: Callable[[], Mapping[str, Mapping[str, str]]] = dict) -> ManifestFiles:
        """Return the manifests of the models of apps, each of which is a folder in ``root``.

        ``variables`` returns defaults for the environment of an app's models, by the name of its folder.
        """
        below = (FILE_NAME, aiges_file.FILE_NAME)
        patterns = ("*/models/*.toml", *(f"*/models/*/{name}" for name in below))
        return cls(root=root, patterns=patterns, variables=variables)

    def paths(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        found = {path for pattern in self.patterns for path in self.root.glob(pattern)}
        hidden = {path for path in found if any(part.startswith(".") for part in path.relative_to(self.root).parts)}
        other = {path for path in found if path.name == aiges_file.FILE_NAME and path.with_name(FILE_NAME) in found}
        return sorted(found - hidden - other)[:_MAX_MANIFESTS]

    def may_hold(self, changed: Path) -> bool:
        """Return whether a changed file or folder may be, or have, a manifest."""
        if not changed.is_relative_to(self.root):
            return False
        deepest = max(pattern.count("/") for pattern in self.patterns)
        return changed.suffix == ".toml" or len(changed.relative_to(self.root).parts) <= deepest


class ModelsFolder:
    """``NAME.toml``, ``NAME/model.toml`` or ``NAME/aiges.toml``, for each model, in one folder or several."""

    def __init__(self, *sources: ManifestFiles) -> None:
        self.sources = sources
        self.models: dict[Key, Model] = {}
        self.files: dict[Key, str] = {}  # the file of each, relative to its folder
        self.problems: dict[str, str] = {}  # by file
        self.broken: dict[str, BrokenManifest] = {}  # invalid manifests, by file
        self._notes: dict[str, list[Note]] = {}  # on the keys of each aiges.toml
        self._locks: set[Path] = set()  # lock files of the models' environments
        self._scanning = threading.Lock()

    def scan(self) -> None:
        """Read all manifests; errors are stored in ``problems``. An error in one does not affect the others.

        A manifest that has become invalid keeps its last valid form until it is fixed or removed.
        """
        with self._scanning:  # scans run in threads, and two may overlap
            self._scan()

    def _scan(self) -> None:
        before: dict[str, list[Model]] = {}
        for key, file in self.files.items():
            before.setdefault(file, []).append(self.models[key])
        models: dict[Key, Model] = {}
        files: dict[Key, str] = {}
        problems: dict[str, str] = {}
        broken: dict[str, BrokenManifest] = {}
        for file, path, variables in self._files():
            try:
                found, notes = manifest.read_all(path, defaults=variables)
            except BrokenManifest as error:
                problems[file], broken[file] = error.message, error
                continue
            self._report(file, notes)
            for model in found:
                key = model.key
                if key in models:
                    problems[file] = f"model {model.name} version {model.version} is also defined in {files[key]}"
                else:
                    models[key], files[key] = model, file
        for file in problems.keys() & before.keys():  # use the last valid form, unless another file defines the model
            for model in before[file]:
                if model.key not in models:
                    models[model.key], files[model.key] = model, file
        for file, reason in problems.items():
            if self.problems.get(file) != reason:
                log.warning("manifest_refused", file=file, reason=reason)
        self.models, self.files, self.problems, self.broken = models, files, problems, broken
        self._locks = {one.lock for model in models.values() for one in model.environments}

    def _report(self, file: str, notes: list[Note]) -> None:
        """Log the keys of an aiges.toml that request what does not happen, when it has changed."""
        if self._notes.get(file, []) != notes:
            self._notes[file] = notes
            keys: dict[str, list[str]] = {}
            for note in notes:
                if note.matters:
                    keys.setdefault(note.reason, []).append(note.key)
            for reason, without in keys.items():
                log.warning("aiges_keys_without_effect", file=file, keys=", ".join(without), reason=reason)

    def find(self, name: str, version: str) -> Model | None:
        """Return the model of the present manifest; None if there is none, or if it cannot be used."""
        key = (None, name, version)
        return None if self.files.get(key) in self.problems else self.models.get(key)

    def has(self, name: str) -> bool:
        """Return whether there is a manifest, valid or not, for a model of that name."""
        return any(model.name == name for model in self.models.values()) or any(
            one.model == name for one in self.broken.values()
        )

    def _files(self) -> Iterator[tuple[str, Path, Mapping[str, str]]]:
        """Yield each manifest's name, its path, and defaults for its environment."""
        for source in self.sources:
            variables = source.variables()
            for path in source.paths():
                file = path.relative_to(source.root)
                yield str(file), path, variables.get(file.parts[0], {})

    def concerns_manifests(self, changed: Path) -> bool:
        """Return whether a change may concern a manifest. A manifest may lack any file beside it, such as a library."""
        listed = any(source.may_hold(changed) for source in self.sources)
        return bool(self.problems) or listed or changed in self._locks

    async def watch(self, on_change: Callable[[Collection[Path]], Awaitable[None]], stopping: asyncio.Event) -> None:
        """Call ``on_change`` with the files that have changed, or with none if they are not known, until ``stopping``.
        The folders may appear and disappear at any time."""
        await asyncio.gather(*(watch(source.root, on_change, stopping) for source in self.sources))
