"""The models of this process: those of the operator's folder and those registered at run time, kept as they should be.

What is registered over HTTP is stored in PostgreSQL first; every host, gateway or worker, looks there now and then, so
that all of them serve the same models. The folder is each host's own. Without the database the known models go on.
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
    DatabaseUnavailable,
    InvalidInput,
    ModelBroken,
    NotFound,
    Overloaded,
    PenstockError,
)
from penstock.models import manifest, store
from penstock.models.code_changes import Reloads, concerned
from penstock.models.folder import ModelsFolder
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import Entry, ModelHost
from penstock.models.manifest import Key, Model
from penstock.models.replica import runtimes
from penstock.models.store import Row
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.telemetry import logs

log = logs.get(__name__)

_LOOK_EVERY: Final = 2.0  # seconds between looks whether another process registered something
_MOST_REGISTERED: Final = 500  # models that are registered over HTTP
_MOST_BYTES: Final = 64 * 1024  # of a manifest that is registered at run time


class ModelService:
    """Registers, replaces and removes models; ``host`` runs them.

    ``start`` reads the folder and needs no database: what is stored is taken up as soon as it can be read.
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
        self._database = database
        self._tenant = tenant
        self._rows: dict[Key, Row] = {}
        self._position = -1
        self._puts = 0
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._looking = asyncio.Lock()
        self._changing: Counter[str] = Counter()  # models that somebody is changing: none of a look's business
        self._watch_code = watch_code  # also of models whose manifests state no `watch`
        self._reloads = Reloads(self._reload_changed)
        self._tried: dict[Key, str] = {}  # fingerprints that could not be used: tried again when they change

    async def start(self) -> None:
        await self.host.start()
        if self.folder is not None and not self.folder.path.is_dir():
            log.warning("models_folder_missing", folder=str(self.folder.path), reason="it is taken up when it is there")
        await self._look(wait=False)
        if self.folder is not None:
            self._tasks.append(asyncio.create_task(self.folder.watch(self._folder_changed, self._stopping)))
        if self._database is not None:
            self._tasks.append(asyncio.create_task(self._follow(self._database)))

    async def stop(self) -> None:
        self._stopping.set()
        await self._reloads.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.host.stop()

    @property
    def problems(self) -> dict[str, str]:
        """Manifests of the folder that are not used as they stand, by file."""
        if self.folder is None:
            return {}
        hidden = {
            self.folder.files[key]: f"model {key[0]} version {key[1]} was removed; add it by its name to bring it back"
            for key in self.folder.models
            if self._hidden(key)
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

    def _explain_absence(self, name: str, version: str | None) -> None:
        """Raise what is wrong with a model of the folder that is not served; nothing for one that is not there."""
        if self.folder is None:
            return
        for file, broken in self.folder.broken.items():
            if broken.model == name and version in {None, broken.version or "1"}:
                raise ModelBroken(
                    f"model {name} cannot be used: in its manifest {file}, {broken.message}", broken.problems
                )
        if name not in self.host.entries and any(key[0] == name and self._hidden(key) for key in self.folder.models):
            raise NotFound(f"model {name} was removed; add it by its name to bring it back")

    # Changing what there is

    async def add(self, stated: Mapping[str, Any], *, replace: bool = False) -> Deployment:
        """Register a model at run time: one that a server elsewhere runs, or one of the operator's folder by name.

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
        if len(text) > _MOST_BYTES:
            raise InvalidInput.of("body", f"a manifest has at most {_MOST_BYTES} bytes")
        model = manifest.check(stated, folder=Path("/"), source="api")
        registered = sum(deployment.model.source == "api" for deployment in self.host.deployments())
        if registered >= _MOST_REGISTERED and not replace:
            raise Overloaded(f"{registered} models are registered at run time already; remove some first")
        with self._changes(model.name):
            existing = self.host.entries.get(model.name)
            versions = {} if existing is None else existing.versions
            if (self.folder is not None and self.folder.has(model.name)) or any(
                one.model.source == "folder" for one in versions.values()
            ):
                raise AlreadyExists(f"model {model.name} stands in the server's folder: take another name")
            if model.version in versions:
                before = versions[model.version].model
                if before.fingerprint == model.fingerprint and not replace:
                    return versions[model.version]  # the same request again
            row = Row(name=model.name, version=model.version, manifest=text, removed=False)
            try:
                return await self.host.add(model, replace=replace, confirm=partial(self._put, row))
            except AlreadyExists:
                there = self.host.find(model.name, model.version)
                if there.model.fingerprint == model.fingerprint:  # the same request, at the same time
                    return there
                raise

    async def remove(self, name: str, version: str | None = None) -> None:
        """Take a model away, or one version; one of the folder stays away until it is added again by name."""
        with self._changes(name):
            await self.host.remove(name, version, confirm=self._put_away)

    async def reload(self, name: str, version: str | None = None) -> Deployment:
        """Import and load a version again, with its manifest as it stands now. Raises what ``add`` raises."""
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
            return await self.host.add(model, replace=replace, confirm=partial(self._put, row))

    async def _put_away(self, models: Sequence[Model]) -> None:
        for model in models:
            stored = self._rows.get((model.name, model.version))
            text = stored.manifest if stored is not None and model.source == "api" else None
            await self._put(Row(name=model.name, version=model.version, manifest=text, removed=True))

    async def _put(self, row: Row) -> None:
        if self._database is None:
            raise DatabaseUnavailable("models are registered in the database, and there is none")
        async with self._database.acquire() as connection:
            await store.put(connection, self._tenant, row)
        self._rows[row.name, row.version] = row
        self._puts += 1

    # Keeping up

    async def _folder_changed(self, changed: Collection[Path]) -> None:
        assert self.folder is not None  # noqa: S101 - it has changed
        before = {deployment.model.key: deployment for deployment in self.host.deployments()}
        if not changed or any(self.folder.concerns_manifests(path) for path in changed):
            await self._look(wait=True)
        models = [deployment.model for deployment in self.host.deployments() if deployment.model.source == "folder"]
        keys = concerned(models, changed, by_default=self._watch_code)
        now = {deployment.model.key: deployment for deployment in self.host.deployments()}
        self._reloads.request(key for key in keys if now[key] is before.get(key))  # others have the new code already

    async def _reload_changed(self, key: Key) -> None:
        """Reload a model whose code has changed. While the new code cannot be used, the old one goes on."""
        name, version = key
        try:
            with self._changes(name):
                deployment = self.host.find(name, version)
                await self.host.reload(deployment.model)
            log.info("model_reloaded", model=name, version=version, reason="its code has changed")
        except NotFound:
            return
        except PenstockError as error:
            self._note_refused(key, f"the changed code is not used: {error.message}")
        await self._look(wait=True)  # a manifest that changed meanwhile was left to this reload

    def _note_refused(self, key: Key, problem: str) -> None:
        """Log why a newer form of a model is not used, and show it beside the one that still is."""
        name, version = key
        log.warning("model_not_taken_up", model=name, version=version, reason=problem)
        entry = self.host.entries.get(name)
        if entry is not None:
            entry.logbook.add("error", problem, version=version)
            if version in entry.versions:
                entry.versions[version].newer_problem = entry.logbook.masked(problem)

    async def _follow(self, database: Database) -> None:
        away = False
        while True:
            puts = self._puts
            try:
                async with database.acquire() as connection:
                    position = await store.position(connection, self._tenant)
                    news = position != self._position
                    rows = await store.read_all(connection, self._tenant) if news else []
                away = False
                if news and puts == self._puts:  # else what was read may be older than what this process wrote
                    self._rows = {(row.name, row.version): row for row in rows}
                    await self._look(wait=True)
                    self._position = position
            except DatabaseUnavailable:
                if not away:
                    log.warning("models_not_followed", reason="the database is away")
                away = True
            except Exception:  # the loop outlives what nobody foresaw: a table that is not there yet
                log.exception("models_not_followed")
            await asyncio.sleep(_LOOK_EVERY)

    @contextmanager
    def _changes(self, name: str) -> Iterator[None]:
        """A model that is being changed on request; loading may take minutes, which must not hold up the others."""
        self._changing[name] += 1
        try:
            yield
        finally:
            self._changing[name] -= 1
            if not self._changing[name]:
                del self._changing[name]

    async def _look(self, *, wait: bool) -> None:
        """Make the host's models what folder and table say."""
        async with self._looking:
            if self.folder is not None:
                await asyncio.to_thread(self.folder.scan)
            wanted = self._wanted()
            current = {(d.model.name, d.model.version): d for d in self.host.deployments()}
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
        wanted: dict[Key, Model] = {} if self.folder is None else dict(self.folder.models)
        for key, row in self._rows.items():
            if self._hidden(key):
                wanted.pop(key, None)
            elif not row.removed and row.manifest is not None and key not in wanted:  # the operator's own comes first
                try:
                    wanted[key] = manifest.check(msgspec.json.decode(row.manifest), folder=Path("/"), source="api")
                except InvalidInput as error:  # stored by a newer or older Penstock
                    log.warning("stored_model_refused", model=row.name, version=row.version, reason=error.message)
        return wanted

    def _hidden(self, key: Key) -> bool:
        """Whether a model of the folder was taken away at run time."""
        row = self._rows.get(key)
        return row is not None and row.removed and row.manifest is None

    async def _take_up(self, model: Model, *, replace: bool, wait: bool) -> None:
        try:
            await self.host.add(model, replace=replace, wait=wait)
            self._tried.pop((model.name, model.version), None)
        except PenstockError as error:  # the one before stays
            self._tried[model.key] = model.fingerprint
            self._note_refused(model.key, f"the new manifest is not used: {error.message}")


def _registrable(runtime: object) -> bool:
    return runtime in runtimes.NAMES and runtimes.find(str(runtime)).registrable


def _order(key: Key) -> tuple[str, list[tuple[int, str]]]:
    """Versions in the order that people mean: 2 before 10. The last one becomes the default."""
    name, version = key
    parts = version.replace("-", ".").replace("+", ".").replace("_", ".").split(".")
    return (name, [(int(part), "") if part.isdigit() else (-1, part) for part in parts])
