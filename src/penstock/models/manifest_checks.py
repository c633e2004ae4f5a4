"""Find every mistake in a manifest, named by its key in the file. Reads only files that options name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.checking import all_of
from penstock.errors import FieldProblem, InvalidInput
from penstock.models.checking import Checker
from penstock.models.environments.environment import Environment, of_lock
from penstock.models.manifest_keys import Stated, duration, size_in_bytes
from penstock.models.replica import runtimes
from penstock.models.replica.runtime import Runtime, Schema
from penstock.models.replica.sessions import AsyncSessions, BlockingSessions
from penstock.outbound.policy import Policy, check_url, networks_of
from penstock.suggestions import did_you_mean

_MAX_REGISTERED_REPLICAS: Final = 8  # the limit for a model that is registered over HTTP
_MAX_PROBLEMS: Final = 40  # mistakes that are reported for one manifest
_DURATIONS: Final = ("timeout", "session_timeout", "start_timeout", "cancel_grace", "unload_after")


def mistakes_of(
    stated: Mapping[str, Any],
    *,
    folder: Path,
    source: str,
    owner: str | None = None,
    reach: Sequence[str] | None = None,
) -> list[FieldProblem]:
    """Return what is wrong with a manifest; nothing if it can be used."""
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
    if owner is not None:
        problems += _check_owned(sound)
        problems += _check_reach(str(own.get("runtime")), tables, reach or ())
    return problems[:_MAX_PROBLEMS]


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
        return f"; the runtime's options are in the table [{runtime}]"
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
        yield FieldProblem(field=runtime, detail=f"must be a table: the runtime's options are in [{runtime}]")
        return
    found = runtimes.find(runtime).check(options, folder)
    for name, detail in found:
        yield FieldProblem(field=f"{runtime}.{name}" if name else runtime, detail=detail)
    if all(name != "environment" for name, _detail in found):
        try:
            environments_of(runtime, options, folder)
        except InvalidInput as error:
            yield from error.problems


def environments_of(runtime: str, options: Mapping[str, Any], folder: Path) -> tuple[Environment, ...]:
    """Return the environments that a model's options name, whose lock files this reads. Raises InvalidInput."""
    found: list[Environment] = []
    for path in runtimes.find(runtime).lock_files(options, folder):
        try:
            found.append(of_lock(path))
        except ValueError as error:
            raise InvalidInput.of(f"{runtime}.environment", f"{path.name}: {error}") from None
    return tuple(found)


def _check_values(sound: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Report mistakes that types do not express; ``sound`` are the keys whose types are right."""
    for name in _DURATIONS:
        if sound.get(name) is not None:
            yield from _problem(name, duration, sound[name])
    if sound.get("memory_limit") is not None:
        yield from _problem("memory_limit", size_in_bytes, sound["memory_limit"])
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
            field="device_share", detail='cannot be combined with the device "auto": state one such as "cuda:0"'
        )
    if sound.get("schema") is not None:
        yield from _check_schema(msgspec.convert(sound["schema"], Schema), sound.get("examples", []))
    if runtime is not None and not _takes_sessions(runtimes.find(runtime)):
        for name in _of_sessions(sound):
            yield FieldProblem(field=name, detail=f"models of the runtime {runtime} take no sessions")


def _takes_sessions(runtime: type[Runtime]) -> bool:
    return runtime.sessions or issubclass(runtime, BlockingSessions | AsyncSessions)


def _of_sessions(sound: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that are stated about sessions."""
    if (sound.get("schema") or {}).get("session") is not None:
        yield "schema.session"
    for name in ("session_timeout", "session_examples"):
        if sound.get(name) is not None:
            yield name


def _problem(name: str, convert: Callable[[Any], object], value: object) -> Iterator[FieldProblem]:
    try:
        convert(value)
    except ValueError as error:
        yield FieldProblem(field=name, detail=str(error))


def _check_schema(schema: Schema, examples: Sequence[Any]) -> Iterator[FieldProblem]:
    stated = {"input": schema.input, "output": schema.output}
    if schema.session is not None:
        session = msgspec.structs.asdict(schema.session)
        stated |= {f"session.{name}": session[name] for name in session}
    for name, one in stated.items():
        try:
            Checker.check_schema(one, f"schema.{name}")
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
    """Report keys that only the operator may state: a variable (LD_PRELOAD) or a folder decides which code runs."""
    for name in ("environment", "folder", "watch"):
        if name in sound:
            yield FieldProblem(field=name, detail="may stand only in a manifest of the server's folder")
    if sound.get("replicas", 1) > _MAX_REGISTERED_REPLICAS:
        yield FieldProblem(field="replicas", detail=f"must be at most {_MAX_REGISTERED_REPLICAS} here")


def _check_owned(sound: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Report keys that would let a tenant's model take what other tenants need, or be seen by them."""
    for name in ("tenants", "device", "device_share", "exclusive"):
        if name in sound:
            yield FieldProblem(field=name, detail="may be stated only by an operator")


def _check_reach(runtime: str, tables: Mapping[str, Any], reach: Sequence[str]) -> Iterator[FieldProblem]:
    """Report an address that a tenant's model may not connect to. Addresses of names are checked when it connects."""
    options = tables.get(runtime)
    for name in ("url", "base_url"):
        if isinstance(options, Mapping) and isinstance(options.get(name), str):
            problem = check_url(options[name], Policy(public=True, also=networks_of(list(reach))))
            if problem is not None and check_url(options[name]) is None:
                yield FieldProblem(field=f"{runtime}.{name}", detail=problem)
