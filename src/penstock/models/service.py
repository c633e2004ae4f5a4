"""The models of this process, kept in sync with the operator's folder and with what is registered over HTTP.

Registrations over HTTP are stored in PostgreSQL first. Every host, gateway or worker, polls the table, so that all of
them serve the same models. Each host has its own folder. While the database is unavailable, hosts serve known models.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.errors import (
    AlreadyExists,
    InvalidInput,
    ModelBroken,
    NotFound,
    Overloaded,
    PenstockError,
)
from penstock.models import manifest
from penstock.models.code_changes import Reloads, concerned
from penstock.models.folder import ModelsFolder
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import Entry, ModelHost
from penstock.models.manifest import Key, Model
from penstock.models.registrations import Registrations
from penstock.models.replica import runtimes
from penstock.models.store import Row
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_REGISTERED: Final = 500  # models that are registered over HTTP
_MAX_MANIFEST_BYTES: Final = 64 * 1024  # of a manifest that is registered over HTTP


class ModelService:
    """Registers, replaces and removes models; ``host`` runs them.

    ``start`` reads the folder and needs no database: stored registrations are applied as soon as they can be read.
    """

    def __init__(
        self,
        host: ModelHost,
        *,
        folder: Path | None = None,
        database: Database | None = None,
        tenant: int = 1,
        watch_code: bool = False,
    ) -> None:
        self.host = host
        self.folder = ModelsFolder(folder) if folder is not None else None
        self._registrations = Registrations(database, tenant)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._synchronizing = asyncio.Lock()
        self._changing: Counter[str] = Counter()  # models that a request is changing: synchronizing skips them
        self._watch_code = watch_code  # whether to reload models whose manifests state no `watch`
        self._reloads = Reloads(self._reload_changed)
        self._tried: dict[Key, str] = {}  # fingerprints of unusable manifests: tried again when they change

    async def start(self) -> None:
        await self.host.start()
        if self.folder is not None and not self.folder.path.is_dir():
            log.warning("models_folder_missing", folder=str(self.folder.path), reason="it is read as soon as it exists")
        await self._synchronize(wait=False)
        if self.folder is not None:
            self._tasks.append(asyncio.create_task(self.folder.watch(self._folder_changed, self._stopping)))
        self._tasks.append(asyncio.create_task(self._registrations.follow(partial(self._synchronize, wait=True))))

    async def stop(self) -> None:
        self._stopping.set()
        await self._reloads.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.host.stop()

    @property
    def problems(self) -> dict[str, str]:
        """The errors, by file, of the folder's manifests whose present form is not used."""
        if self.folder is None:
            return {}
        hidden = {
            self.folder.files[key]: f"model {key[0]} version {key[1]} was removed; add it by its name to bring it back"
            for key in self.folder.models
            if self._registrations.hides(key)
        }
        return hidden | self.folder.problems

    def find(self, name: str, version: str | None = None) -> Deployment:
        """Return a model by name, and version if not the newest. Raises NotFound and ModelBroken."""
        try:
            return self.host.find(name, version)
        except NotFound:
            self._explain_absence(name, version)
            raise

    def entry(self, name: str) -> Entry:
        """Return a model with all its versions. Raises NotFound and ModelBroken."""
        self.find(name)
        return self.host.entries[name]

    def problem_of(self, name: str) -> str | None:
        """Return why a model of the folder is not served; None where it is, or where there is no such model."""
        try:
            self.find(name)
        except ModelBroken as error:
            return error.message
        except NotFound:
            pass
        return None

    def _explain_absence(self, name: str, version: str | None) -> None:
        """Raise the error of a model in the folder that is not served; do nothing if there is no such model."""
        if self.folder is None:
            return
        for file, broken in self.folder.broken.items():
            if broken.model == name and (version is None or version == (broken.version or "1")):
                raise ModelBroken(
                    f"model {name} cannot be used: in its manifest {file}, {broken.message}", broken.problems
                )
        if name not in self.host.entries and any(
            key[0] == name and self._registrations.hides(key) for key in self.folder.models
        ):
            raise NotFound(f"model {name} was removed; add it by its name to bring it back")

    # Changes by requests

    async def add(self, stated: Mapping[str, Any], *, replace: bool = False) -> Deployment:
        """Register a model that a server elsewhere runs, or restore a model of the operator's folder by its name.

        Raises InvalidInput, AlreadyExists, NotFound (no such manifest), ModelUnavailable, DatabaseUnavailable.
        """
        if "runtime" not in stated:
            return await self._add_from_folder(stated, replace=replace)
        if not _registrable(stated["runtime"]):
            raise InvalidInput.of(
                "runtime",
                f"over HTTP only {' and '.join(runtimes.registrable())} models can be registered; others come from a "
                "manifest in the server's folder PENSTOCK_MODELS_DIR and are named without a runtime",
            )
        text = msgspec.json.encode(stated)
        if len(text) > _MAX_MANIFEST_BYTES:
            raise InvalidInput.of("body", f"a manifest has at most {_MAX_MANIFEST_BYTES} bytes")
        model = manifest.check(stated, folder=Path("/"), source="api")
        registered = sum(deployment.model.source == "api" for deployment in self.host.deployments())
        if registered >= _MAX_REGISTERED and not replace:
            raise Overloaded(f"{registered} models are registered over HTTP already; remove some first")
        with self._changes(model.name):
            self._require_free_name(model.name)
            existing = self._registered_as(model)
            if existing is not None and not replace:
                return existing  # the same request again
            row = Row(name=model.name, version=model.version, manifest=text, removed=False)
            try:
                return await self.host.add(model, replace=replace, confirm=partial(self._registrations.put, row))
            except AlreadyExists:
                existing = self._registered_as(model)
                if existing is None:
                    raise
                return existing  # the same request, at the same time

    def _require_free_name(self, name: str) -> None:
        """Raise AlreadyExists if a name belongs to the operator's folder."""
        entry = self.host.entries.get(name)
        served = entry is not None and any(one.model.source == "folder" for one in entry.versions.values())
        if served or (self.folder is not None and self.folder.has(name)):
            raise AlreadyExists(f"model {name} belongs to the server's folder: choose another name")

    def _registered_as(self, model: Model) -> Deployment | None:
        """Return the deployment of exactly this manifest, if there is one."""
        entry = self.host.entries.get(model.name)
        there = entry.versions.get(model.version) if entry is not None else None
        return there if there is not None and there.model.fingerprint == model.fingerprint else None

    async def remove(self, name: str, version: str | None = None) -> None:
        """Remove a model, or one version; a model of the folder stays removed until it is added again by its name."""
        with self._changes(name):
            await self.host.remove(name, version, confirm=self._put_removals)

    async def reload(self, name: str, version: str | None = None) -> Deployment:
        """Import and load a version again, with its present manifest. Raises the errors of ``add``."""
        with self._changes(name):
            model = self.find(name, version).model
            if self.folder is not None and model.source == "folder":
                await asyncio.to_thread(self.folder.scan)
                fresh = self.folder.find(model.name, model.version)
                if fresh is None:
                    reasons = "; ".join(f"{file}: {reason}" for file, reason in self.folder.problems.items())
                    raise InvalidInput.of("manifest", f"version {model.version} is not in the folder now. {reasons}")
                model = fresh
            return await self.host.reload(model)

    async def _add_from_folder(self, stated: Mapping[str, Any], *, replace: bool) -> Deployment:
        extra = sorted(stated.keys() - {"name", "version"})
        if extra:
            raise InvalidInput.of(extra[0][:100], "goes with a runtime; a model of the server's folder has just a name")
        name = stated.get("name")
        if not isinstance(name, str):
            raise InvalidInput.of("name", "is required")
        with self._changes(name):
            if self.folder is not None:
                await asyncio.to_thread(self.folder.scan)
            known = {} if self.folder is None else self.folder.models
            found = [model for model in known.values() if model.name == name]
            if "version" in stated:
                found = [model for model in found if model.version == stated["version"]]
            if not found:
                self._explain_absence(name, stated.get("version"))
                suggestion = did_you_mean(name, {model.name for model in known.values()}) or "."
                names = " or ".join(runtimes.registrable())
                raise NotFound(
                    f"there is no manifest of a model {name[:100]!r} in the server's folder{suggestion} "
                    f"To register one that a server elsewhere runs, state a runtime: {names}"
                )
            model = found[-1]
            if self.folder is not None and self.folder.find(model.name, model.version) is None:
                file = self.folder.files[model.name, model.version]
                raise InvalidInput.of("manifest", f"{file}: {self.folder.problems[file]}")
            row = Row(name=model.name, version=model.version, manifest=None, removed=False)
            return await self.host.add(model, replace=replace, confirm=partial(self._registrations.put, row))

    async def _put_removals(self, models: Sequence[Model]) -> None:
        for model in models:
            await self._registrations.put_removal(model)

    # Synchronizing

    async def _folder_changed(self, changed: Collection[Path]) -> None:
        assert self.folder is not None  # noqa: S101 - it has changed
        before = {deployment.model.key: deployment for deployment in self.host.deployments()}
        if not changed or any(self.folder.concerns_manifests(path) for path in changed):
            await self._synchronize(wait=True)
        models = [deployment.model for deployment in self.host.deployments() if deployment.model.source == "folder"]
        keys = concerned(models, changed, by_default=self._watch_code)
        now = {deployment.model.key: deployment for deployment in self.host.deployments()}
        self._reloads.request(key for key in keys if now[key] is before.get(key))  # others run the new code already

    async def _reload_changed(self, key: Key) -> None:
        """Reload a model whose code has changed. If the new code cannot be used, the old code stays in use."""
        name, version = key
        try:
            with self._changes(name):
                model = self.host.find(name, version).model
                stated = self.folder.find(name, version) if self.folder is not None else None
                await self.host.reload(stated or model)
            log.info("model_reloaded", model=name, version=version, reason="its code has changed")
        except NotFound:
            return
        except PenstockError as error:
            self._note_refused(key, f"the changed code is not used: {error.message}")
        await self._synchronize(wait=True)  # synchronizing left a manifest that changed meanwhile to this reload

    def _note_refused(self, key: Key, problem: str) -> None:
        """Log why a newer form of a model is not used, and show it beside the one that still is."""
        name, version = key
        log.warning("model_not_taken_up", model=name, version=version, reason=problem)
        entry = self.host.entries.get(name)
        if entry is not None:
            entry.logbook.add("error", problem, version=version)
            if version in entry.versions:
                entry.versions[version].newer_problem = entry.logbook.masked(problem)

    @contextmanager
    def _changes(self, name: str) -> Iterator[None]:
        """Mark a model as being changed, because loading may take minutes and must not delay other models."""
        self._changing[name] += 1
        try:
            yield
        finally:
            self._changing[name] -= 1
            if not self._changing[name]:
                del self._changing[name]

    async def _synchronize(self, *, wait: bool) -> None:
        """Make the host's models match the folder and the table."""
        async with self._synchronizing:
            if self.folder is not None:
                await asyncio.to_thread(self.folder.scan)
            wanted = self._wanted()
            current = {deployment.model.key: deployment for deployment in self.host.deployments()}
            for key in current.keys() - wanted.keys():
                if not self._changing[key[0]]:
                    with suppress(NotFound):
                        await self.host.remove(*key)
            replacing = []
            for key, model in sorted(wanted.items(), key=lambda item: _order(item[0])):
                before = current.get(key)
                same = before is not None and before.model.fingerprint == model.fingerprint
                if same or self._changing[model.name] or self._tried.get(key) == model.fingerprint:
                    continue
                if before is None:
                    await self._take_up(model, replace=False, wait=False)
                else:
                    replacing.append(self._take_up(model, replace=True, wait=wait))
            await asyncio.gather(*replacing)

    def _wanted(self) -> dict[Key, Model]:
        """Return the models that should be served; the operator's own come before those that are registered."""
        folder = {} if self.folder is None else self.folder.models
        hidden = self._registrations.hidden()
        wanted = {key: model for key, model in folder.items() if key not in hidden}
        for key, model in self._registrations.models():
            wanted.setdefault(key, model)
        return wanted

    async def _take_up(self, model: Model, *, replace: bool, wait: bool) -> None:
        try:
            await self.host.add(model, replace=replace, wait=wait)
            self._tried.pop(model.key, None)
        except PenstockError as error:  # the previous form stays in use
            self._tried[model.key] = model.fingerprint
            self._note_refused(model.key, f"the new manifest is not used: {error.message}")


def _registrable(runtime: object) -> bool:
    return runtime in runtimes.NAMES and runtimes.find(str(runtime)).registrable


def _order(key: Key) -> tuple[str, list[tuple[int, str]]]:
    """Return a sort key that orders versions as people do, 2 before 10. The last version becomes the default."""
    name, version = key
    parts = version.replace("-", ".").replace("+", ".").replace("_", ".").split(".")
    return (name, [(int(part), "") if part.isdigit() else (-1, part) for part in parts])
