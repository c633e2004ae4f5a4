"""The manifest of a model: ``model.toml``, or the same as JSON where a model is registered at run time."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from penstock import durations
from penstock.checking import all_of
from penstock.errors import FieldProblem, InvalidInput
from penstock.models.checking import Checker
from penstock.models.replica import runtimes, secrets
from penstock.models.replica.runtime import Runtime, Schema
from penstock.suggestions import did_you_mean

FILE_NAME = "model.toml"
_MAX_BYTES = 2**20
_MAX_REGISTERED_REPLICAS = 8  # of a model that is registered over HTTP
_MAX_DURATION = timedelta(days=1)
_MAX_PROBLEMS = 40  # that are reported of one manifest
_DURATIONS = ("timeout", "start_timeout", "cancel_grace", "unload_after")

ModelName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, Meta(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Key = tuple[str, str]  # a model's name and version
Seconds = Annotated[float, Meta(gt=0, le=24 * 3600)]


class Batching(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How calls are answered together."""

    max_size: Annotated[int, Meta(ge=1, le=4096)] = 16
    max_wait_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0  # the longest that a call waits for company


class Stated(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The keys of a manifest, without the table that is named after the runtime."""

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
    cancel_grace: Seconds | str | None = None  # for a call whose caller has gone to stop; None: the host's setting
    unload_after: Seconds | str | None = None  # idle time after which replicas end; None: they stay
    environment: dict[str, str] = {}
    folder: str = "."  # working folder of the replicas
    memory_limit: Annotated[int, Meta(ge=2**20)] | str | None = None  # bytes of a replica and its children together
    device: Annotated[str, Meta(pattern=r"^(cpu|auto|cuda:[0-9]{1,3})$")] = "cpu"
    device_share: Annotated[float, Meta(gt=0, le=1)] | None = None  # the part of the device that one replica takes
    exclusive: Annotated[str, Meta(min_length=1, max_length=100)] | None = (
        None  # group of which one is loaded at a time
    )
    retry: bool = True  # a call whose replica dies may run again in another one
    watch: bool | list[str] | None = None  # reload when code changes, or files of these patterns; None: the setting's
    schema: Schema | None = None
    examples: list[Any] = []  # inputs that the schema allows


class Manifest(Stated, kw_only=True, frozen=True):
    """A manifest, with the table that is named after its runtime."""

    options: dict[str, Any] = {}


class Model(Struct, kw_only=True, frozen=True):
    """A manifest that was read and checked, with its texts turned into numbers."""

    manifest: Manifest
    folder: Path  # the manifest's; relative paths start here
    source: str  # "folder" or "api"
    timeout: timedelta
    start_timeout: timedelta
    cancel_grace: timedelta | None
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
    def key(self) -> Key:
        return self.name, self.version

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


def read(path: Path) -> Model:
    """Return the model of a manifest file. Raises BrokenManifest, which names every key as it stands in the file."""
    default = path.parent.name if path.name == FILE_NAME else path.stem
    stated: dict[str, Any] = {}
    try:
        stated = _parsed(path)
        stated.setdefault("name", default)
        return check(stated, folder=path.parent, source="folder")
    except InvalidInput as error:
        name, version = stated.get("name"), stated.get("version")
        raise BrokenManifest(
            error.problems,
            model=name if isinstance(name, str) else default,
            version=version if isinstance(version, str) else None,
        ) from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(path).decode())
    except OSError as error:
        raise InvalidInput.of("manifest", f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput.of("manifest", f"is not valid TOML: {error}") from None


def _content(path: Path) -> bytes:
    """Return what a file holds. Opening a FIFO would wait for its writer, and reading a device may never end."""
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


def check(stated: Mapping[str, Any], *, folder: Path, source: str) -> Model:
    """Return the model of a manifest. Raises InvalidInput, which names every mistake."""
    tables = {name: stated[name] for name in runtimes.NAMES if name in stated}
    own = {name: value for name, value in stated.items() if name not in tables}
    problems = [
        *_check_runtime(own, tables),
        *_check_keys(own),
        *_check_options(own.get("runtime"), tables, folder),
    ]
    wrong = {problem.field.partition(".")[0].partition("[")[0] for problem in problems}
    sound = {name: value for name, value in own.items() if name not in wrong}
    problems += _check_values(sound)
    if source == "api":
        problems += _check_registered(sound)
    if problems:
        raise InvalidInput(problems[:_MAX_PROBLEMS])
    return _model(msgspec.convert({**own, "options": tables.get(own["runtime"], {})}, Manifest), folder, source)


def _model(manifest: Manifest, folder: Path, source: str) -> Model:
    return Model(
        manifest=manifest,
        folder=folder,
        source=source,
        timeout=_duration(manifest.timeout),
        start_timeout=_duration(manifest.start_timeout),
        cancel_grace=None if manifest.cancel_grace is None else _duration(manifest.cancel_grace),
        unload_after=None if manifest.unload_after is None else _duration(manifest.unload_after),
        memory_limit_bytes=None if manifest.memory_limit is None else _bytes(manifest.memory_limit),
        concurrency=manifest.concurrency or runtimes.find(manifest.runtime).default_concurrency,
        secrets=secrets.secrets_in(manifest.environment, manifest.options),
        fingerprint=hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest(),
    )


def _check_runtime(own: Mapping[str, Any], tables: Mapping[str, Any]) -> Iterator[FieldProblem]:
    stated = own.get("runtime")
    if stated is None and len(tables) == 1:
        (table,) = tables
        yield FieldProblem(field="runtime", detail=f'is required; the table [{table}] suggests runtime = "{table}"')
    elif stated is None:
        yield FieldProblem(field="runtime", detail=f"is required: one of {', '.join(runtimes.NAMES)}")
    elif stated not in runtimes.NAMES:
        detail = f"must be one of {', '.join(runtimes.NAMES)}{did_you_mean(str(stated), runtimes.NAMES)}"
        yield FieldProblem(field="runtime", detail=detail)


def _check_keys(own: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Report keys that a manifest does not have, and values of the wrong type."""
    known = Stated.__struct_fields__
    for name in own.keys() - set(known):
        yield FieldProblem(field=name[:100], detail=f"is not known here{_hint(name, own.get('runtime'))}")
    given = {name: value for name, value in own.items() if name in known and name != "runtime"}
    yield from (problem for problem in all_of({"runtime": "", **given}, Stated))


def _hint(unknown: str, runtime: object) -> str:
    if unknown == "options":
        return f"; what concerns the runtime stands in the table [{runtime}]"
    known = Stated.__struct_fields__
    suggested = did_you_mean(unknown, [*known, *([runtime] if isinstance(runtime, str) else [])])
    return suggested or f"; there are: {', '.join(known)}, and the runtime's table"


def _check_options(runtime: object, tables: Mapping[str, Any], folder: Path) -> Iterator[FieldProblem]:
    if runtime not in runtimes.NAMES:
        return
    assert isinstance(runtime, str)  # noqa: S101 - it is one of the names
    for name in tables.keys() - {runtime}:
        detail = f"belongs to the runtime {name}, and this model's runtime is {runtime}"
        yield FieldProblem(field=name, detail=detail)
    options = tables.get(runtime, {})
    if not isinstance(options, Mapping):
        yield FieldProblem(field=runtime, detail=f"must be a table: what concerns the runtime stands in [{runtime}]")
        return
    for name, detail in runtimes.find(runtime).check(options, folder):
        yield FieldProblem(field=f"{runtime}.{name}" if name else runtime, detail=detail)


def _check_values(sound: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Report what the types of a manifest's keys cannot say; ``sound`` are the keys whose types are right."""
    for name in _DURATIONS:
        if sound.get(name) is not None:
            yield from _problem(name, _duration, sound[name])
    if sound.get("memory_limit") is not None:
        yield from _problem("memory_limit", _bytes, sound["memory_limit"])
    runtime = sound.get("runtime")
    if sound.get("batching") is not None and runtime is not None and not runtimes.find(runtime).batches:
        yield FieldProblem(
            field="batching", detail=f"models of the runtime {runtime} do not run several calls together"
        )
    if sound.get("replicas", 1) > 1 and runtime is not None and runtimes.find(runtime).one_replica:
        yield FieldProblem(
            field="replicas",
            detail=f"must be 1 with the runtime {runtime}: one replica makes as many calls at a time as "
            "concurrency says, and learns the server's limits for all of them",
        )
    if sound.get("device_share") is not None and sound.get("device") == "auto":
        yield FieldProblem(
            field="device_share", detail='does not go with the device "auto": state one such as "cuda:0"'
        )
    if sound.get("schema") is not None:
        yield from _check_schema(msgspec.convert(sound["schema"], Schema), sound.get("examples", []))


def _problem(name: str, convert: Callable[[Any], object], value: object) -> Iterator[FieldProblem]:
    try:
        convert(value)
    except ValueError as error:
        yield FieldProblem(field=name, detail=str(error))


def _check_schema(schema: Schema, examples: Sequence[Any]) -> Iterator[FieldProblem]:
    for name in ("input", "output"):
        try:
            Checker.check_schema(getattr(schema, name), f"schema.{name}")
        except InvalidInput as error:
            yield from error.problems
            if name == "input":
                examples = ()
    checker = Checker(schema.input) if examples else None
    for index, example in enumerate(examples):
        try:
            assert checker is not None  # noqa: S101 - there are examples
            checker.check(example, prefix=f"examples[{index}]")
        except InvalidInput as error:
            yield from error.problems


def _check_registered(sound: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Report what only the operator may state: a variable such as LD_PRELOAD, or a folder, decides which code runs."""
    for name in ("environment", "folder", "watch"):
        if name in sound:
            yield FieldProblem(field=name, detail="may stand only in a manifest of the server's folder")
    if sound.get("replicas", 1) > _MAX_REGISTERED_REPLICAS:
        yield FieldProblem(field="replicas", detail=f"must be at most {_MAX_REGISTERED_REPLICAS} here")


def _duration(stated: float | str) -> timedelta:
    """Return the duration that a manifest states. Raises ValueError."""
    duration = durations.parse(stated) if isinstance(stated, str) else timedelta(seconds=stated)
    if not timedelta(0) < duration <= _MAX_DURATION:
        raise ValueError("must be more than 0 and at most 24 hours")
    return duration


_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(K|M|G|T)i?B?", re.IGNORECASE)


def _bytes(stated: int | str) -> int:
    """Return the size that a manifest states. Raises ValueError."""
    if isinstance(stated, int):
        return stated
    found = _SIZE.fullmatch(stated.strip())
    if found is None:
        raise ValueError('must be a number of bytes, or a size such as "512MiB" or "8GiB"')
    size = int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))
    if size < 2**20:
        raise ValueError("must be at least 1 MiB")
    return size
