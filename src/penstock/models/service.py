"""The models of this process, kept in sync with the operator's folders and with what is registered over HTTP.

Registrations over HTTP are stored in PostgreSQL first. Every host, gateway or worker, polls the table, so that all of
them serve the same models. Each host has its own folders. While the database is unavailable, hosts serve known models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from penstock.access.audit import Action, Sender
from penstock.errors import (
    AlreadyExists,
    InvalidInput,
    ModelBroken,
    NotFound,
    Overloaded,
    ScopeMissing,
)
from penstock.models.folder import ManifestFiles, ModelsFolder
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import Entry, ModelHost
from penstock.models.manifest import Model
from penstock.models.reader import OPERATOR, Reader
from penstock.models.registrations import Registrations
from penstock.models.replica import runtimes, secrets
from penstock.models.sealing import Sealing, has_secrets
from penstock.models.store import Row
from penstock.models.synchronizing import Synchronizer
from penstock.postgres.pool import Database
from penstock.suggestions import did_you_mean
from penstock.telemetry import logs

log = logs.get(__name__)

_MAX_REGISTERED: Final = 500  # versions of models that are registered over HTTP
_MAX_OF_TENANT: Final = 100  # of these by one tenant
_MAX_MANIFEST_BYTES: Final = 64 * 1024  # of a manifest that is registered over HTTP
_RECORDED: Final = ("url", "path", "base_url", "model", "task")  # options that the audit log shows, without secrets


class ModelService:
    """Registers, replaces and removes models; ``host`` runs them.

    ``start`` reads the folder and needs no database: stored registrations are applied as soon as they can be read.
    Models of tenants may connect to the public internet and to the networks in ``tenants_reach``.
    """

    def __init__(
        self,
        host: ModelHost,
        *,
        folders: Sequence[ManifestFiles] = (),
        database: Database | None = None,
        sealing: Sealing | None = None,
        tenants_reach: tuple[str, ...] = (),
        watch_code: bool = False,
    ) -> None:
        self.host = host
        self.folder = ModelsFolder(*folders) if folders else None
        self._registrations = Registrations(database, sealing=sealing, reach=tenants_reach)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._synchronizer = Synchronizer(host, self._registrations, self.folder, watch_code=watch_code)

    async def start(self) -> None:
        await self.host.start()
        for source in () if self.folder is None else self.folder.sources:
            if not source.root.is_dir():
                log.warning("models_folder_missing", folder=str(source.root), reason="it is read as soon as it exists")
        synchronizer = self._synchronizer
        await synchronizer.synchronize()
        if self.folder is not None:
            watching = self.folder.watch(synchronizer.folder_changed, self._stopping)
            self._tasks.append(asyncio.create_task(watching))
        following = self._registrations.follow(synchronizer.synchronize)
        self._tasks.append(asyncio.create_task(following))

    async def stop(self) -> None:
        self._stopping.set()
        await self._synchronizer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.host.stop()

    @property
    def problems(self) -> dict[str, str]:
        """The errors, by file, of manifests in the folder that cannot be used as they are now."""
        if self.folder is None:
            return {}
        hidden = {
            self.folder.files[key]: f"model {key[1]} version {key[2]} was removed; add it by its name to bring it back"
            for key in self.folder.models
            if self._registrations.hides(key)
        }
        return hidden | self.folder.problems

    def find(self, name: str, version: str | None = None, reader: Reader = OPERATOR) -> Deployment:
        """Return the model that a reader sees under a name, by default its newest version.

        Raises NotFound and ModelBroken.
        """
        entry = self.visible(name, reader)
        if entry is None:
            if reader.tenant is None and reader.may_name(name):
                self._explain_absence(name, version)
            names = [entry.name for entry in self.entries(reader)]
            raise NotFound(f"there is no model {name[:100]!r} here{did_you_mean(name, names)}")
        try:
            return self.host.find(name, version, owner=entry.owner)
        except NotFound:
            if reader.tenant is None:
                self._explain_absence(name, version)
            raise

    def entry(self, name: str, reader: Reader = OPERATOR) -> Entry:
        """Return a model that a reader sees, with all its versions. Raises NotFound and ModelBroken."""
        deployment = self.find(name, reader=reader)
        return self.host.entries[deployment.model.owner, name]

    def entries(self, reader: Reader = OPERATOR) -> list[Entry]:
        """Return all models that a reader sees, by name."""
        names = {name for owner, name in self.host.entries if owner in reader.owners}
        found = [self.visible(name, reader) for name in sorted(names)]
        return [entry for entry in found if entry is not None]

    def problem_of(self, name: str, reader: Reader = OPERATOR) -> str | None:
        """Return why a model of the folder is not served; None where it is, or where there is no such model."""
        try:
            self.find(name, reader=reader)
        except ModelBroken as error:
            return error.message
        except NotFound:
            pass
        return None

    def managed(self, name: str, reader: Reader) -> Entry:
        """Return a model that a reader may manage.

        Raises NotFound and ModelBroken, and ScopeMissing for a model of the operator that is shared with a tenant.
        """
        entry = self.entry(name, reader)
        if entry.owner != reader.tenant:
            raise ScopeMissing(f"model {name} is shared by the operator: this needs a key with the scope operator")
        return entry

    def visible(self, name: str, reader: Reader) -> Entry | None:
        """Return the model to which a name refers for a reader; its newest version decides who sees it."""
        for owner in reader.owners:
            entry = self.host.entries.get((owner, name))
            if entry is not None and reader.sees(entry.versions[entry.default].model):
                return entry
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
        if (None, name) not in self.host.entries and any(
            key[1] == name and self._registrations.hides(key) for key in self.folder.models
        ):
            raise NotFound(f"model {name} was removed; add it by its name to bring it back")

    # Changes by requests

    async def add(
        self,
        stated: Mapping[str, Any],
        *,
        replace: bool = False,
        reader: Reader = OPERATOR,
        sender: Sender | None = None,
    ) -> Deployment:
        """Register a model that a server elsewhere runs: for the reader's tenant or, if the operator does so, for all.
        Without a runtime, restore the model of that name in the operator's folder. The audit log records ``sender``.

        Raises InvalidInput, AlreadyExists, NotFound (no such manifest), ModelUnavailable, DatabaseUnavailable.
        """
        if "runtime" not in stated and reader.tenant is None:
            return await self._add_from_folder(stated, reader, sender, replace=replace)
        if not _registrable(stated.get("runtime")):
            raise InvalidInput.of(
                "runtime",
                f"over HTTP only {' and '.join(runtimes.registrable())} models can be registered; others come from a "
                "manifest in the server's folder PENSTOCK_MODELS_DIR and are named without a runtime",
            )
        text = msgspec.json.encode(stated)
        if len(text) > _MAX_MANIFEST_BYTES:
            raise InvalidInput.of("body", f"a manifest has at most {_MAX_MANIFEST_BYTES} bytes")
        model = self._registrations.checked(stated, reader.tenant)
        _require_own_name(model.name, reader)
        self._require_room(model, replace=replace)
        with self._synchronizer.changing(model.owner, model.name):
            self._require_free_name(model.name, reader)
            existing = self._registered_as(model)
            if existing is not None and not replace:
                return existing  # the same request again
            row = Row(
                owner=model.owner,
                name=model.name,
                version=model.version,
                manifest=text,
                removed=False,
                secret=has_secrets(model),
            )
            confirm = partial(self._registrations.put, [row], sender, _addition(model, replace=replace))
            try:
                return await self.host.add(model, replace=replace, confirm=confirm)
            except AlreadyExists:
                existing = self._registered_as(model)
                if existing is None:
                    raise
                return existing  # the same request, at the same time

    def _require_room(self, model: Model, *, replace: bool) -> None:
        """Raise Overloaded if too many models are registered."""
        registered = [one.model.owner for one in self.host.deployments() if one.model.source == "api"]
        own = registered.count(model.owner)
        limit = _MAX_REGISTERED if model.owner is None else _MAX_OF_TENANT
        if not replace and own >= limit:
            raise Overloaded(f"{own} models are registered over HTTP already; remove some first")
        if not replace and len(registered) >= _MAX_REGISTERED:
            raise Overloaded("too many models are registered here already")

    def _require_free_name(self, name: str, reader: Reader) -> None:
        """Raise AlreadyExists if a name belongs to the operator's folder or, for a tenant, to a model that it sees."""
        if reader.tenant is not None:
            shared = self.host.entries.get((None, name))
            if shared is not None and reader.sees(shared.versions[shared.default].model):
                raise AlreadyExists(f"model {name} is shared by the operator: take another name")
            return
        entry = self.host.entries.get((None, name))
        served = entry is not None and any(one.model.source == "folder" for one in entry.versions.values())
        if served or (self.folder is not None and self.folder.has(name)):
            raise AlreadyExists(f"model {name} belongs to the server's folder: choose another name")

    def _registered_as(self, model: Model) -> Deployment | None:
        """Return the deployment of exactly this manifest, if there is one."""
        entry = self.host.entries.get((model.owner, model.name))
        there = entry.versions.get(model.version) if entry is not None else None
        return there if there is not None and there.model.fingerprint == model.fingerprint else None

    async def remove(
        self, name: str, version: str | None = None, reader: Reader = OPERATOR, *, sender: Sender | None = None
    ) -> None:
        """Remove a model, or one version; a model of the folder stays removed until it is added again by its name.

        Raises NotFound, and ScopeMissing for a model that is shared with the reader.
        """
        owner = self.managed(name, reader).owner
        with self._synchronizer.changing(owner, name):
            confirm = partial(self._registrations.put_removals, sender=sender)
            await self.host.remove(name, version, owner=owner, confirm=confirm)

    async def reload(
        self, name: str, version: str | None = None, reader: Reader = OPERATOR, *, sender: Sender | None = None
    ) -> Deployment:
        """Import and load a version again, with its present manifest. Raises the errors of ``add`` and ``remove``."""
        owner = self.managed(name, reader).owner
        with self._synchronizer.changing(owner, name):
            model = self.find(name, version, reader).model
            if self.folder is not None and model.source == "folder":
                await asyncio.to_thread(self.folder.scan)
                fresh = self.folder.find(model.name, model.version)
                if fresh is None:
                    reasons = "; ".join(f"{file}: {reason}" for file, reason in self.folder.problems.items())
                    raise InvalidInput.of("manifest", f"version {model.version} is not in the folder now. {reasons}")
                model = fresh
            done = Action(name="model.reload", subject=name, after={"version": model.version})
            await self._registrations.record(sender, done)
            return await self.host.reload(model)

    async def clean_logs(self, name: str, reader: Reader = OPERATOR, *, sender: Sender | None = None) -> int:
        """Delete the lines of a model's log; return how many there were. Raises the errors of ``remove``."""
        logbook = self.managed(name, reader).logbook
        await self._registrations.record(sender, Action(name="model.clean_logs", subject=name))
        return logbook.clear()

    async def _add_from_folder(
        self, stated: Mapping[str, Any], reader: Reader, sender: Sender | None, *, replace: bool
    ) -> Deployment:
        extra = sorted(stated.keys() - {"name", "version"})
        if extra:
            raise InvalidInput.of(extra[0][:100], "requires runtime; a model of the server's folder is added by name")
        name = stated.get("name")
        if not isinstance(name, str):
            raise InvalidInput.of("name", "is required")
        _require_own_name(name, reader)
        with self._synchronizer.changing(None, name):
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
                file = self.folder.files[model.key]
                raise InvalidInput.of("manifest", f"{file}: {self.folder.problems[file]}")
            row = Row(name=model.name, version=model.version, manifest=None, removed=False)
            confirm = partial(self._registrations.put, [row], sender, _addition(model, replace=replace))
            return await self.host.add(model, replace=replace, confirm=confirm)


def _registrable(runtime: object) -> bool:
    return runtime in runtimes.NAMES and runtimes.find(str(runtime)).registrable


def _require_own_name(name: str, reader: Reader) -> None:
    """Raise InvalidInput for a name that the reader's key may not use."""
    if not reader.may_name(name):
        allowed = ", ".join(sorted(reader.models or ())) or "none"
        raise InvalidInput.of("name", f"must be one of the models of your key: {allowed}")


def _addition(model: Model, *, replace: bool) -> Action:
    """Return what the audit log records of a registration: nothing that may be secret."""
    options = secrets.masked(
        {name: model.manifest.options[name] for name in _RECORDED if name in model.manifest.options}
    )
    after = {"version": model.version, "runtime": model.manifest.runtime, "replace": replace, **options}
    return Action(name="model.add", subject=model.name, after=after)
