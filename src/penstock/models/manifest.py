"""The manifest of a model: ``model.toml``, or the same as JSON where a model is registered at run time."""

from __future__ import annotations

import hashlib
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from penstock.errors import FieldProblem, InvalidInput
from penstock.models import aiges_file
from penstock.models.aiges_keys import Note
from penstock.models.environments.environment import Environment
from penstock.models.manifest_checks import environments_of, mistakes_of
from penstock.models.manifest_keys import Manifest, duration, size_in_bytes
from penstock.models.replica import runtimes, secrets
from penstock.models.replica.runtime import Runtime, Schema

FILE_NAME: Final = "model.toml"
_MAX_BYTES: Final = 2**20

Key = tuple[str | None, str, str]  # a model's owner, name and version


class Model(Struct, kw_only=True, frozen=True):
    """A manifest that was read and checked, with its durations and sizes parsed."""

    manifest: Manifest
    folder: Path  # the manifest's; relative paths start here
    source: str  # "folder" or "api"
    owner: str | None = None  # the tenant that registered it; None: the operator
    reach: tuple[str, ...] | None = None  # networks besides the public internet that it may connect to; None: any
    timeout: timedelta
    session_timeout: timedelta
    start_timeout: timedelta
    cancel_grace: timedelta | None
    unload_after: timedelta | None
    memory_limit_bytes: int | None
    concurrency: int  # calls that one replica runs at a time
    environments: tuple[Environment, ...] = ()  # alternatives, the best first; none: Penstock's own, or an interpreter
    secrets: tuple[str, ...] = field(default=())
    fingerprint: str = ""  # changes when the manifest does, or a lock file that it names

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def key(self) -> Key:
        return self.owner, self.name, self.version

    @property
    def runtime(self) -> type[Runtime]:
        """The runtime's class, for its traits."""
        return runtimes.find(self.manifest.runtime)

    @property
    def schema(self) -> Schema:
        """The schema that the manifest states; a model whose runtime describes it has another one."""
        return self.manifest.schema or Schema(description=self.manifest.description)


class BrokenManifest(InvalidInput):
    """A manifest file that cannot be used: it is about ``model``, and ``version`` where it states one."""

    def __init__(self, problems: Sequence[FieldProblem], *, model: str, version: str | None) -> None:
        super().__init__(problems)
        self.model = model
        self.version = version


def read(path: Path, *, defaults: Mapping[str, str] = MappingProxyType({})) -> Model:
    """Return the model of a manifest file. ``defaults`` are variables for its environment that this process may lack.

    Raises BrokenManifest, which names keys as they are written in the file.
    """
    default = path.parent.name if path.name == FILE_NAME else path.stem
    stated: dict[str, Any] = {}
    try:
        stated = tables_of(path)
        stated.setdefault("name", default)
        if missing := {name: value for name, value in defaults.items() if name not in os.environ}:
            own = stated.get("environment", {})
            stated["environment"] = {**missing, **own} if isinstance(own, dict) else own
        return check(stated, folder=path.parent, source="folder")
    except InvalidInput as error:
        name, version = stated.get("name"), stated.get("version")
        raise BrokenManifest(
            error.problems,
            model=name if isinstance(name, str) else default,
            version=version if isinstance(version, str) else None,
        ) from None


def read_all(path: Path, *, defaults: Mapping[str, str] = MappingProxyType({})) -> tuple[list[Model], list[Note]]:
    """Return the models of a file: one of a manifest, one or several of an ``aiges.toml``, with notes on its keys.

    Raises BrokenManifest.
    """
    if path.name != aiges_file.FILE_NAME:
        return [read(path, defaults=defaults)], []
    name = path.parent.name
    models: list[Model] = []
    try:
        file = aiges_file.read(path, tables_of(path))
        for stated in file.manifests:
            name = stated["name"]
            given = {**stated, "environment": {one: value for one, value in defaults.items() if one not in os.environ}}
            models.append(check(given, folder=path.parent, source="folder"))
    except InvalidInput as error:
        raise BrokenManifest(error.problems, model=name, version=None) from None
    return models, file.notes


def file_in(folder: Path) -> Path:
    """Return the file that describes the model in a folder: its manifest, or else its ``aiges.toml``."""
    other = folder / aiges_file.FILE_NAME
    return other if other.is_file() and not (folder / FILE_NAME).is_file() else folder / FILE_NAME


def tables_of(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises InvalidInput if it cannot be read, is too large, or is not TOML."""
    try:
        return tomllib.loads(content_of(path).decode())
    except OSError as error:
        raise InvalidInput.of("manifest", f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput.of("manifest", f"is not valid TOML: {error}") from None


def content_of(path: Path) -> bytes:
    """Return the content of a small regular file: opening a FIFO would wait, and reading a device may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidInput.of("manifest", "must be a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may have become a FIFO meanwhile
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput.of("manifest", "must be a regular file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InvalidInput.of("manifest", f"must have at most {_MAX_BYTES} bytes")
    return content


def check(
    stated: Mapping[str, Any],
    *,
    folder: Path,
    source: str,
    owner: str | None = None,
    reach: tuple[str, ...] | None = None,
) -> Model:
    """Return the model of a manifest that a tenant, or the operator, states. Raises InvalidInput with every mistake."""
    mistakes = mistakes_of(stated, folder=folder, source=source, owner=owner, reach=reach)
    if mistakes:
        raise InvalidInput(mistakes)
    own = {name: value for name, value in stated.items() if name not in runtimes.NAMES}
    manifest = msgspec.convert({**own, "options": stated.get(own["runtime"], {})}, Manifest)
    return _model(manifest, folder, source, owner, reach)


def _model(manifest: Manifest, folder: Path, source: str, owner: str | None, reach: tuple[str, ...] | None) -> Model:
    environments = environments_of(manifest.runtime, manifest.options, folder)
    stated = msgspec.json.encode([manifest, [one.key for one in environments]], order="sorted")
    return Model(
        manifest=manifest,
        folder=folder,
        source=source,
        owner=owner,
        reach=reach,
        timeout=duration(manifest.timeout),
        session_timeout=duration(manifest.timeout if manifest.session_timeout is None else manifest.session_timeout),
        start_timeout=duration(manifest.start_timeout),
        cancel_grace=None if manifest.cancel_grace is None else duration(manifest.cancel_grace),
        unload_after=None if manifest.unload_after is None else duration(manifest.unload_after),
        memory_limit_bytes=None if manifest.memory_limit is None else size_in_bytes(manifest.memory_limit),
        concurrency=manifest.concurrency or runtimes.find(manifest.runtime).default_concurrency,
        environments=environments,
        secrets=secrets.secrets_in(manifest.environment, manifest.options),
        fingerprint=hashlib.sha256(stated).hexdigest(),
    )
