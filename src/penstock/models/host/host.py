"""All models of this process: registered, called, reloaded, replaced, removed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from penstock.errors import AlreadyExists, ModelUnavailable, NotFound, Unsupported
from penstock.models.host import device_shares, environment
from penstock.models.host.call_folders import MAX_BYTES, CallFolders
from penstock.models.host.calls import Listener, LiveCall
from penstock.models.host.deployment import Deployment
from penstock.models.host.exclusive import Group
from penstock.models.host.guardian import Guardian
from penstock.models.host.logbook import Logbook
from penstock.models.host.sessions import LiveSession
from penstock.models.host.supervision import Supervision
from penstock.models.host.windows import Windows
from penstock.models.manifest import Model
from penstock.models.replica.runtime import Segment
from penstock.processes.changes import Changes
from penstock.suggestions import did_you_mean
from penstock.telemetry import logs
from penstock.tenants.principal import DEFAULT_TENANT, TenantId

log = logs.get(__name__)

_PING_INTERVAL: Final = 5.0  # seconds
_PING_TIMEOUT: Final = 30.0  # seconds that an idle replica may take to respond to a ping
_CANCEL_GRACE: Final = timedelta(seconds=5)
_MAX_IMPORTING: Final = 2  # models whose code is imported at the same time


EntryKey = tuple[str | None, str]  # the owner and name of a model: tenants may use the same names


class Entry:
    """The versions of one model, the default version for requests that name none, and the model's log."""

    def __init__(self, name: str, owner: str | None = None) -> None:
        self.name = name
        self.owner = owner  # the tenant that registered it; None: the operator
        self.versions: dict[str, Deployment] = {}
        self.default = ""
        self.logbook = Logbook()


class ModelHost:
    """Owns every model that this process serves. All calls go through ``call``; nothing here touches a database.

    ``private`` names environment variables that no replica sees. An idle replica is pinged every ``ping_interval``
    seconds and killed after ``ping_timeout`` seconds without a response. If a cancelled call has not stopped after
    ``cancel_grace`` and other calls wait, its replica is killed. Files of calls are kept in ``call_folder``, those of
    inputs up to ``max_file_bytes`` together. ``start`` needs no models; ``stop`` ends all replicas.
    """

    def __init__(
        self,
        *,
        private: Iterable[str] = (),
        ping_interval: float = _PING_INTERVAL,
        ping_timeout: float = _PING_TIMEOUT,
        cancel_grace: timedelta = _CANCEL_GRACE,
        call_folder: Path | None = None,
        max_file_bytes: int = MAX_BYTES,
    ) -> None:
        self.entries: dict[EntryKey, Entry] = {}
        self.guardian = Guardian()
        self.folders = CallFolders(call_folder, self.guardian, max_bytes=max_file_bytes)
        self.changes = Changes()  # of models and schemas, which come and go
        self._private = frozenset(private)
        self._supervision = Supervision(
            self.deployments,
            lambda deployment: self._spawn(self._unload(deployment)),
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            cancel_grace=cancel_grace,
            max_file_bytes=max_file_bytes,
        )
        self._windows = Windows()
        self._part_windows = Windows()
        self._groups: dict[str, Group] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # found once, because finding it costs a system call
        self._loop_task: asyncio.Task[None] | None = None
        self._describing = asyncio.Semaphore(_MAX_IMPORTING)
        self._changing: WeakValueDictionary[EntryKey, asyncio.Lock] = WeakValueDictionary()
        self._leaving: set[Deployment] = set()  # replaced or removed, and not yet ended

    # Life

    async def start(self) -> None:
        """Begin to supervise replicas."""
        self._loop = asyncio.get_running_loop()
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._supervision.run())

    async def stop(self, *, grace: float = 5.0) -> None:
        """End all replicas; calls that run or wait are failed."""
        tasks = [*self._tasks, *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        everything = [*self.deployments(), *self._leaving]
        await asyncio.gather(*(deployment.stop(grace=grace) for deployment in everything))
        await self.folders.close()
        await self.guardian.stop()

    # Calls

    def find(self, name: str, version: str | None = None, *, owner: str | None = None) -> Deployment:
        """Return a model by name, and by version if it is not the default one; raises NotFound."""
        entry = self.entries.get((owner, name))
        if entry is None:
            names = [known for whose, known in self.entries if whose == owner]
            raise NotFound(f"there is no model {name[:100]!r} here{did_you_mean(name, names)}")
        deployment = entry.versions.get(version or entry.default)
        if deployment is None:
            known = ", ".join(entry.versions)
            raise NotFound(f"model {name} has no version {str(version)[:50]!r}; it has: {known}")
        return deployment

    def call(
        self,
        deployment: Deployment,
        input: bytes,  # noqa: A002
        segments: Sequence[Segment] = (),
        *,
        request_id: str = "",
        streams: bool = False,
        collects: bool | None = None,
        listener: Listener | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> LiveCall:
        """Accept a call whose input was checked. Raises Overloaded, PoisonInput, ModelUnavailable.

        ``streams``: the caller reads chunks as they come; ``collects``: the result holds all of them (by default where
        it does not stream). A call with a listener must be closed. Where calls wait, tenants take turns.
        A call of a version that has just been replaced goes to its replacement. Raises NotFound if the version was
        removed: another version may do something else.
        """
        call = LiveCall(
            input,
            segments,
            request_id=request_id,
            streams=streams,
            collects=not streams if collects is None else collects,
            windows=self._windows,
            listener=listener,
            loop=self._loop,
            tenant=tenant,
        )
        try:
            self._current(deployment).call(call)
        except BaseException:
            call.close()
            raise
        return call

    def session(
        self,
        deployment: Deployment,
        input: bytes,  # noqa: A002
        segments: Sequence[Segment] = (),
        *,
        request_id: str = "",
        collects: bool | None = None,
        listener: Listener | None = None,
        tenant: TenantId = DEFAULT_TENANT,
    ) -> LiveSession:
        """Accept a session, whose first input was checked. Raises as ``call`` does, and Unsupported for a model that
        takes no sessions. Its result holds all chunks with ``collects``, by default where it has no listener.

        A session occupies a place of a replica until it ends, and never moves to another replica. The model's timeout
        is the longest time without a part or chunk. It must be closed.
        """
        if deployment.schema is None or deployment.schema.session is None:
            raise Unsupported(f"model {deployment.model.name} takes no sessions")
        session = LiveSession(
            input,
            segments,
            request_id=request_id,
            collects=listener is None if collects is None else collects,
            windows=self._windows,
            part_windows=self._part_windows,
            listener=listener,
            loop=self._loop,
            tenant=tenant,
        )
        try:
            self._current(deployment).begin(session)
        except BaseException:
            session.close()
            raise
        return session

    def _current(self, deployment: Deployment) -> Deployment:
        """Return the replacement of a deployment that was replaced meanwhile. Raises NotFound if it was removed."""
        if not deployment.retired:
            return deployment
        model = deployment.model
        return self.find(model.name, model.version, owner=model.owner)

    # Registering

    async def add(
        self,
        model: Model,
        *,
        replace: bool = False,
        wait: bool = True,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Deployment:
        """Register a model, a version of one, or with ``replace`` a new form of an existing version.

        The new one takes calls once it is ready (described, and loaded if its predecessor was) and ``confirm`` has
        returned; the predecessor finishes its calls. Raises AlreadyExists, InvalidInput (no space on its device), with
        ``wait`` ModelUnavailable when its code or schema is unusable, and what ``confirm`` raises; then nothing
        has changed.
        """
        place = (model.owner, model.name)
        async with self._lock(place):
            entry = self.entries.get(place)
            before = entry.versions.get(model.version) if entry is not None else None
            if before is not None and not replace:
                raise AlreadyExists(f"model {model.name} version {model.version} is registered already")
            self._check_device(model, before)
            entry = entry or Entry(model.name, model.owner)
            entry.logbook.hide(environment.secrets(model, ours=environment.of_host()))
            deployment = self._deployment(model, entry)
            try:
                if wait or before is not None:
                    await self._make_ready(deployment, before)
                self._check_device(model, before)  # others may have been registered while it was made ready
                if confirm is not None:
                    await confirm()
            except BaseException:
                self._leaving.add(deployment)
                self._spawn(self._discard(deployment))
                raise
            self.entries[place] = entry
            entry.versions[model.version] = deployment
            if before is None:
                entry.default = model.version
            if before is not None:
                self._begin_retiring(before)
            elif not wait:
                self._spawn(self._introduce(deployment))
            elif model.manifest.eager:
                self._spawn(self._load(deployment))
            self.changes.note()
            runtime = model.manifest.runtime
            log.info("model_added", model=model.name, version=model.version, runtime=runtime, **_owned(model.owner))
            return deployment

    async def remove(
        self,
        name: str,
        version: str | None = None,
        *,
        owner: str | None = None,
        confirm: Callable[[Sequence[Model]], Awaitable[None]] | None = None,
    ) -> None:
        """Remove a model, or one version of it, after ``confirm`` has returned; its running calls are finished.

        Raises NotFound, and what ``confirm`` raises. If it raises, nothing has changed.
        """
        place = (owner, name)
        self.find(name, version, owner=owner)
        async with self._lock(place):
            self.find(name, version, owner=owner)  # it may have been removed meanwhile
            entry = self.entries[place]
            going = [entry.versions[version]] if version is not None else list(entry.versions.values())
            if confirm is not None:
                await confirm([deployment.model for deployment in going])
            for deployment in going:
                del entry.versions[deployment.model.version]
                deployment.metrics.forget()
                self._begin_retiring(deployment)
            if not entry.versions:
                del self.entries[place]
            elif entry.default not in entry.versions:
                entry.default = list(entry.versions)[-1]
            self.changes.note()
            log.info("model_removed", model=name, version=version, **_owned(owner))

    def _lock(self, place: EntryKey) -> asyncio.Lock:
        """Return the lock for changing a model; it lives as long as it is held or awaited."""
        lock = self._changing.get(place)
        if lock is None:
            lock = self._changing[place] = asyncio.Lock()
        return lock

    async def reload(self, model: Model) -> Deployment:
        """Restart a registered version: import its code again and, if it was loaded, load it."""
        return await self.add(model, replace=True)

    def deployments(self) -> list[Deployment]:
        """Return every version of every model."""
        return [deployment for entry in self.entries.values() for deployment in entry.versions.values()]

    async def _make_ready(self, deployment: Deployment, before: Deployment | None) -> None:
        async with self._describing:
            await deployment.describe()
        if before is None or not (before.ready or deployment.model.manifest.eager):
            return
        if deployment.turn is None:
            await deployment.load()
        # In a group the old one must end first: the new one is loaded by its first call, in its turn.

    async def _introduce(self, deployment: Deployment) -> None:
        """Describe and perhaps load a model that is listed already; an error is stored in its ``problem``."""
        try:
            async with self._describing:
                await deployment.describe()
            if deployment.model.manifest.eager:
                await deployment.load()
        except ModelUnavailable as error:
            log.warning("model_unavailable", model=deployment.model.name, reason=error.message)
        self.changes.note()

    async def _load(self, deployment: Deployment) -> None:
        try:
            await deployment.load()
        except ModelUnavailable as error:
            log.warning("model_unavailable", model=deployment.model.name, reason=error.message)

    def _deployment(self, model: Model, entry: Entry) -> Deployment:
        deployment = Deployment(
            model,
            guardian=self.guardian,
            logbook=entry.logbook,
            private=self._private,
            folders=self.folders,
            on_change=self.changes.note,
        )
        if model.manifest.exclusive is not None:
            group = self._groups.setdefault(model.manifest.exclusive, Group(model.manifest.exclusive))
            group.join(deployment)
        return deployment

    def _begin_retiring(self, deployment: Deployment) -> None:
        """Let a deployment finish what it has; it takes no more calls from this moment on."""
        deployment.retired = True
        self._leaving.add(deployment)
        self._spawn(self._retire(deployment))

    async def _retire(self, deployment: Deployment) -> None:
        await deployment.retire()
        self._gone(deployment)

    async def _discard(self, deployment: Deployment) -> None:
        await deployment.stop()
        self._gone(deployment)

    def _gone(self, deployment: Deployment) -> None:
        self._leaving.discard(deployment)
        if deployment.model.manifest.exclusive is not None:
            self._groups[deployment.model.manifest.exclusive].leave(deployment)

    def _check_device(self, model: Model, before: Deployment | None) -> None:
        device_shares.check(model, [one.model for one in self.deployments() if one is not before])

    @staticmethod
    async def _unload(deployment: Deployment) -> None:
        await deployment.unload()
        deployment.pump()  # a call may have arrived meanwhile

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("model_change_failed", exc_info=task.exception())


def _owned(owner: str | None) -> dict[str, str]:
    """Return the field of log events that names the owner of a model, if that is a tenant."""
    return {} if owner is None else {"tenant": owner}
