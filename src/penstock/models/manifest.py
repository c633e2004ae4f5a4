"""What an operator states about a model: ``model.toml``, or the same as JSON when it is registered at run time."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from penstock import durations, masking
from penstock.errors import FieldProblem, InvalidInput
from penstock.models import runtimes
from penstock.models.runtimes.base import Schema
from penstock.web.mistakes import converted

FILE_NAME = "model.toml"
REMOTE = frozenset({"http", "openai"})  # runtimes that run no code of the operator's: an API caller may register them
_LARGEST = 2**20  # bytes of a manifest
_MOST_REGISTERED_REPLICAS = 8  # of a model that is registered over HTTP
_SECRET = re.compile(r"key|token|secret|password|passwd|credential|authorization", re.IGNORECASE)

ModelName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, Meta(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Seconds = Annotated[float, Meta(gt=0, le=24 * 3600)]


class Batching(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How calls are answered together."""

    max_size: Annotated[int, Meta(ge=1, le=4096)] = 16
    max_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0  # the longest that a call waits for company


class Manifest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A model as it is stated. ``options`` is the table that is named after the runtime."""

    name: ModelName
    runtime: str
    version: Version = "1"
    description: Annotated[str, Meta(max_length=10_000)] = ""
    replicas: Annotated[int, Meta(ge=1, le=256)] = 1
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] | None = (
        None  # calls at a time in a replica; None: the runtime's
    )
    eager: bool = False  # load at start, not at the first call
    batching: Batching | None = None
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 128  # calls that may wait for a replica
    timeout: Seconds | str = 60.0  # of one call in a replica
    start_timeout: Seconds | str = 300.0  # of importing and loading
    unload_after: Seconds | str | None = None  # idle time after which replicas end; None: they stay
    environment: dict[str, str] = {}
    folder: str = "."  # working folder of the replicas
    memory_limit: Annotated[int, Meta(ge=2**20)] | str | None = None  # bytes of a replica and its children together
    device: Annotated[str, Meta(pattern=r"^(cpu|cuda:[0-9]{1,3})$")] = "cpu"
    device_share: Annotated[float, Meta(gt=0, le=1)] | None = None  # the part of the device that one replica takes
    exclusive: Annotated[str, Meta(min_length=1, max_length=100)] | None = (
        None  # group of which one is loaded at a time
    )
    retry: bool = True  # a call whose replica dies may run again in another one
    schema: Schema | None = None
    examples: list[Any] = []  # inputs that the schema allows
    options: dict[str, Any] = {}


class Model(Struct, kw_only=True, frozen=True):
    """A manifest that was read and checked, with its texts turned into numbers."""

    manifest: Manifest
    folder: Path  # where it stands; relative paths start here
    source: str  # "folder" or "api"
    timeout: timedelta
    start_timeout: timedelta
    unload_after: timedelta | None
    memory_limit_bytes: int | None
    concurrency: int  # calls that one replica runs at a time
    secrets: tuple[str, ...] = field(default=())
    fingerprint: str = ""  # changes when the manifest does

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def schema(self) -> Schema:
        """As the manifest states it; a python model's own comes from its signature."""
        return self.manifest.schema or Schema(description=self.manifest.description)


def read(path: Path) -> Model:
    """The model of a manifest file; raises InvalidInput, with every field named as it stands in the file."""
    try:
        if path.stat().st_size > _LARGEST:
            raise InvalidInput.of(path.name, f"has more than {_LARGEST} bytes")
        with path.open("rb") as file:
            stated = tomllib.load(file)
    except OSError as error:
        raise InvalidInput.of(path.name, f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput.of(path.name, f"is not valid TOML: {error}") from None
    stated.setdefault("name", path.parent.name if path.name == FILE_NAME else path.stem)
    return check(stated, folder=path.parent, source="folder")


def check(stated: Mapping[str, Any], *, folder: Path, source: str) -> Model:
    """A model from what was stated; raises InvalidInput."""
    stated = dict(stated)
    runtime = stated.get("runtime")
    if not isinstance(runtime, str) or runtime not in runtimes.names():
        raise InvalidInput.of("runtime", f"must be one of {', '.join(runtimes.names())}")
    options = stated.pop(runtime, {})
    if "options" in stated or not isinstance(options, dict):
        raise InvalidInput.of(runtime, f"must be a table: what concerns the runtime stands in [{runtime}]")
    stated["options"] = options
    manifest = converted(stated, Manifest)
    problems = [
        FieldProblem(field=f"{runtime}.{name}" if name else runtime, detail=detail)
        for name, detail in runtimes.find(runtime).check(options, folder)
    ]
    if manifest.batching is not None and manifest.runtime != "python":
        problems.append(FieldProblem(field="batching", detail="only python models answer several calls together"))
    if source == "api":
        problems += _not_for_callers(stated, manifest)
    if problems:
        raise InvalidInput(problems)
    _check_schema(manifest)
    return Model(
        manifest=manifest,
        folder=folder,
        source=source,
        timeout=_duration(manifest.timeout, "timeout"),
        start_timeout=_duration(manifest.start_timeout, "start_timeout"),
        unload_after=None if manifest.unload_after is None else _duration(manifest.unload_after, "unload_after"),
        memory_limit_bytes=None if manifest.memory_limit is None else _bytes(manifest.memory_limit),
        concurrency=manifest.concurrency or runtimes.find(runtime).default_concurrency,
        secrets=tuple(_secrets(manifest)),
        fingerprint=hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest(),
    )


def _not_for_callers(stated: Mapping[str, Any], manifest: Manifest) -> list[FieldProblem]:
    """What only the operator may state: a variable such as LD_PRELOAD, or a folder, decides which code is run."""
    problems = [
        FieldProblem(field=name, detail="goes with a manifest of the server's folder only")
        for name in ("environment", "folder")
        if name in stated
    ]
    if manifest.replicas > _MOST_REGISTERED_REPLICAS:
        problems.append(FieldProblem(field="replicas", detail=f"must be at most {_MOST_REGISTERED_REPLICAS} here"))
    return problems


def _duration(stated: float | str, name: str) -> timedelta:
    if isinstance(stated, str):
        try:
            parsed = durations.parse(stated)
        except ValueError as error:
            raise InvalidInput.of(name, str(error)) from None
        if not timedelta(0) < parsed <= timedelta(days=1):
            raise InvalidInput.of(name, "must be more than 0 and at most 24 hours")
        return parsed
    return timedelta(seconds=stated)


_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(K|M|G|T)i?B?", re.IGNORECASE)


def _bytes(stated: int | str) -> int:
    if isinstance(stated, int):
        return stated
    found = _SIZE.fullmatch(stated.strip())
    if found is None:
        raise InvalidInput.of("memory_limit", 'must be a number of bytes, or a size such as "512MiB" or "8GiB"')
    size = int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))
    if size < 2**20:
        raise InvalidInput.of("memory_limit", "must be at least 1 MiB")
    return size


def is_secret(name: str) -> bool:
    """Whether what stands under this name is a secret."""
    return _SECRET.search(name) is not None


def _names_it(name: str, value: str) -> bool:
    """Whether a value only names the variable that holds the secret."""
    return name.endswith("_env") or value.startswith(("env:", "${"))


def _secrets(manifest: Manifest) -> list[str]:
    """Values that must leave in no answer, log or error: what stands under a name that speaks of a secret."""
    found: list[str] = []

    def look(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                look(str(key), inner)
        elif (
            isinstance(value, str) and is_secret(name) and len(value) >= masking.SHORTEST and not _names_it(name, value)
        ):
            found.append(value)

    look("", manifest.environment)
    look("", manifest.options)
    return sorted(set(found), key=len, reverse=True)


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they may be shown: secrets masked."""
    shown: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            shown[name] = public_options(value)
        else:
            shown[name] = masking.MASK if is_secret(name) and isinstance(value, str) else value
    return shown


def _check_schema(manifest: Manifest) -> None:
    if manifest.schema is None:
        return
    from penstock.models.checking import Checker  # noqa: PLC0415

    for name in ("input", "output"):
        Checker.check_schema(getattr(manifest.schema, name), f"schema.{name}")
    checker = Checker(manifest.schema.input)
    for index, example in enumerate(manifest.examples):
        checker.check(example, prefix=f"examples[{index}]")
