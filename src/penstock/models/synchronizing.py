"""Keep the models of a host in sync with the operator's folder and with the registrations, and reload changed code."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.errors import NotFound, PenstockError
from penstock.models.code_changes import Reloads, concerned
from penstock.models.folder import ModelsFolder
from penstock.models.host.host import EntryKey, ModelHost
from penstock.models.manifest import Key, Model
from penstock.models.registrations import Registrations
from penstock.telemetry import logs

log = logs.get(__name__)


class Synchronizer:
    """Adds, replaces and removes models of a host, except those that a request is changing.

    ``watch_code`` is whether to reload models whose manifests state no `watch`.
    """

    def __init__(
        self, host: ModelHost, registrations: Registrations, folder: ModelsFolder | None, *, watch_code: bool
    ) -> None:
        self._host = host
        self._registrations = registrations
        self._folder = folder
        self._watch_code = watch_code
        self._synchronizing = asyncio.Lock()
        self._changing: Counter[EntryKey] = Counter()  # models that a request or a reload is changing
        self._reloads = Reloads(self._reload_changed)
        self._tried: dict[Key, str] = {}  # fingerprints of unusable manifests: tried again when they change

    async def stop(self) -> None:
        await self._reloads.stop()

    async def synchronize(self) -> None:
        """Make the host's models match the folder and the table."""
        async with self._synchronizing:
            if self._folder is not None:
                await asyncio.to_thread(self._folder.scan)
            wanted = self._wanted()
            current = {deployment.model.key: deployment for deployment in self._host.deployments()}
            for key in current.keys() - wanted.keys():
                owner, name, version = key
                if not self._changing[owner, name]:
                    with suppress(NotFound):
                        await self._host.remove(name, version, owner=owner)
            replacing = []
            for key, model in sorted(wanted.items(), key=lambda item: _order(item[0])):
                before = current.get(key)
                same = before is not None and before.model.fingerprint == model.fingerprint
                if same or self._changing[model.owner, model.name] or self._tried.get(key) == model.fingerprint:
                    continue
                if before is None:
                    await self._take_up(model, replace=False)
                else:
                    replacing.append(self._take_up(model, replace=True))
            await asyncio.gather(*replacing)

    async def folder_changed(self, changed: Collection[Path]) -> None:
        """Take up changed manifests, and reload models whose code has changed."""
        assert self._folder is not None  # noqa: S101 - it has changed
        before = {deployment.model.key: deployment for deployment in self._host.deployments()}
        if not changed or any(self._folder.concerns_manifests(path) for path in changed):
            await self.synchronize()
        models = [deployment.model for deployment in self._host.deployments() if deployment.model.source == "folder"]
        keys = concerned(models, changed, by_default=self._watch_code)
        now = {deployment.model.key: deployment for deployment in self._host.deployments()}
        self._reloads.request(key for key in keys if now[key] is before.get(key))  # others run the new code already

    @contextmanager
    def changing(self, owner: str | None, name: str) -> Iterator[None]:
        """Mark a model as being changed, because loading may take minutes and must not delay other models."""
        place = (owner, name)
        self._changing[place] += 1
        try:
            yield
        finally:
            self._changing[place] -= 1
            if not self._changing[place]:
                del self._changing[place]

    async def _reload_changed(self, key: Key) -> None:
        """Reload a model whose code has changed. If the new code cannot be used, the old code stays in use."""
        owner, name, version = key
        try:
            with self.changing(owner, name):
                model = self._host.find(name, version, owner=owner).model
                stated = self._folder.find(name, version) if self._folder is not None else None
                await self._host.reload(stated or model)
            log.info("model_reloaded", model=name, version=version, reason="its code has changed")
        except NotFound:
            return
        except PenstockError as error:
            self._note_refused(key, f"the changed code is not used: {error.message}")
        await self.synchronize()  # a manifest that changed in the meantime was left to this reload

    def _note_refused(self, key: Key, problem: str) -> None:
        """Log why a newer form of a model is not used, and show it beside the one that still is."""
        owner, name, version = key
        log.warning("model_not_taken_up", model=name, version=version, reason=problem)
        entry = self._host.entries.get((owner, name))
        if entry is not None:
            entry.logbook.add("error", problem, version=version)
            if version in entry.versions:
                entry.versions[version].newer_problem = entry.logbook.masked(problem)

    def _wanted(self) -> dict[Key, Model]:
        """Return the models that should be served; the operator's own come before those that are registered."""
        folder = {} if self._folder is None else self._folder.models
        hidden = self._registrations.hidden()
        wanted = {key: model for key, model in folder.items() if key not in hidden}
        for key, model in self._registrations.models():
            wanted.setdefault(key, model)
        return wanted

    async def _take_up(self, model: Model, *, replace: bool) -> None:
        """Add a model at once, or put it in place of its present form once it can be used."""
        try:
            await self._host.add(model, replace=replace, wait=replace)
            self._tried.pop(model.key, None)
        except PenstockError as error:  # the previous form stays in use
            self._tried[model.key] = model.fingerprint
            self._note_refused(model.key, f"the new manifest is not used: {error.message}")


def _order(key: Key) -> tuple[str, list[tuple[int, str]]]:
    """Return a sort key that orders versions as people do, 2 before 10. The last version becomes the default."""
    _, name, version = key
    parts = version.replace("-", ".").replace("+", ".").replace("_", ".").split(".")
    return (name, [(int(part), "") if part.isdigit() else (-1, part) for part in parts])
