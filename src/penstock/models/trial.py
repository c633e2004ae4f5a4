"""Test a model without a gateway: ``penstock model test``."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock.errors import InvalidInput, PenstockError
from penstock.models import manifest, trial_sessions
from penstock.models.checking import Checker
from penstock.models.host.deployment import Deployment
from penstock.models.host.host import ModelHost
from penstock.models.host.logbook import Wanted
from penstock.models.manifest_keys import SessionExample
from penstock.models.replica.data_urls import inlined

_SHOWN: Final = 60  # characters of a value in the report
_TOLERANCE: Final = 1e-4  # relative, between batched and single results
_LINES: Final = 5  # of the log, when something fails
_TOGETHER: Final = 32  # calls of the batch trial


@dataclass(frozen=True, slots=True)
class Tried:
    """One call or session of the trial."""

    input: Any  # of a session: its first input and its parts
    milliseconds: float
    output: Any  # of a session: its chunks
    problem: str | None  # None: the call succeeded, and the output fits its schema


@dataclass(slots=True)
class Report:
    """The result of a trial."""

    name: str
    version: str
    runtime: str
    load_seconds: float = 0.0
    calls: list[Tried] = field(default_factory=list)
    batched: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all calls of the trial succeeded."""
        return not self.problems and bool(self.calls) and all(call.problem is None for call in self.calls)


async def run(path: Path, *, private: Iterable[str] = ()) -> Report:
    """Load the (first) model of a manifest, an absolute path, and call it with its examples.

    ``private`` names variables that the model must not see, as it does not see them in a gateway either. Raises
    InvalidInput for the manifest itself.
    """
    model = manifest.read_all(path)[0][0]
    report = Report(model.name, model.version, model.manifest.runtime)
    host = ModelHost(private=private)
    await host.start()
    try:
        began = time.monotonic()
        deployment = await host.add(model)
        await deployment.load()
        report.load_seconds = time.monotonic() - began
        await _try(host, deployment, report)
    except PenstockError as error:
        report.problems.append(error.message)
    finally:
        entry = host.entries.get((model.owner, model.name))
        if not report.sound and entry is not None:
            lines = entry.logbook.newest(Wanted(level="warning"), _LINES)
            report.problems += [f"log: {line.message}" for line in lines]
        await host.stop()
    return report


async def _try(host: ModelHost, deployment: Deployment, report: Report) -> None:
    schema = deployment.schema
    inputs = deployment.model.manifest.examples or (_examples(schema.input) if schema is not None else [])
    if schema is None or not inputs:
        report.problems.append("nothing to try: state inputs under `examples` in the manifest")
        return
    output = Checker({"type": "array", "items": schema.output} if schema.streams else schema.output)
    outputs: list[Any] = []
    for given in inputs:
        tried, value = await _call(host, deployment, given, output)
        report.calls.append(tried)
        outputs.append(value)
    for example in deployment.model.manifest.session_examples:
        report.calls.append(await _session(host, deployment, example))
    batching = deployment.model.manifest.batching
    if schema.batches and batching is not None and report.sound:
        await _together(host, deployment, report, inputs, outputs)


async def _session(host: ModelHost, deployment: Deployment, example: SessionExample) -> Tried:
    began = time.perf_counter()
    value: Any = None
    problem: str | None = None
    try:
        value = await trial_sessions.chunks_of(host, deployment, example)
    except PenstockError as error:
        problem = error.message
    return Tried(msgspec.to_builtins(example), 1000 * (time.perf_counter() - began), value, problem)


async def _call(host: ModelHost, deployment: Deployment, given: Any, output: Checker) -> tuple[Tried, Any]:
    began = time.perf_counter()
    value: Any = None
    problem: str | None = None
    try:
        value = await _output(host, deployment, given)
        output.check(value, prefix="output")
    except PenstockError as error:
        problem = error.message
    milliseconds = 1000 * (time.perf_counter() - began)
    return Tried(given, milliseconds, value, problem), value


async def _output(host: ModelHost, deployment: Deployment, given: Any) -> Any:
    deployment.checker.check(given)
    result = await host.call(deployment, msgspec.json.encode(given)).done
    return msgspec.json.decode(inlined(result.json, result.segments))


async def _together(
    host: ModelHost, deployment: Deployment, report: Report, inputs: list[Any], outputs: list[Any]
) -> None:
    """Call the model with the same inputs again, many at a time: the outputs must be the same."""
    count = min(_TOGETHER, deployment.model.manifest.queue)
    pairs = list(itertools.islice(itertools.cycle(zip(inputs, outputs, strict=True)), count))
    began = time.perf_counter()
    repeated = await asyncio.gather(*(_output(host, deployment, given) for given, _ in pairs), return_exceptions=True)
    seconds = time.perf_counter() - began
    for (given, alone), output in zip(pairs, repeated, strict=True):
        if isinstance(output, BaseException):
            report.problems.append(f"together with others {shortened(given)} fails: {output}")
            return
        if not same(alone, output):
            report.problems.append(
                f"together with others {shortened(given)} gives {shortened(output)}, alone {shortened(alone)}"
            )
            return
    counts = deployment.metrics.counts()
    size = counts.mean_batch or 0.0
    alone = len(pairs) - round(size * counts.batches)
    if not counts.batches:
        report.batched = f"no two of {len(pairs)} calls ran together: nothing was compared"
        return
    report.batched = (
        f"{len(pairs)} calls: {counts.batches} batches of {size:.1f} calls on average, {alone} alone; "
        f"{1000 * seconds / len(pairs):.2f} ms each, the same outputs"
    )
    if len(inputs) == 1:
        report.batched += "; more than one example would also show outputs that are mixed up"


def same(left: Any, right: Any) -> bool:
    """Return whether two outputs are equal; numbers with a fraction may differ by rounding."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        if isinstance(left, int) and isinstance(right, int):
            return left == right
        return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _examples(schema: Mapping[str, Any]) -> list[Any]:
    """Return an input made of the examples and defaults in a schema, if they are enough."""
    if isinstance(schema.get("examples"), list):
        return list(schema["examples"])
    found: dict[str, Any] = {}
    for name, stated in schema.get("properties", {}).items():
        for source in ("examples", "default", "const", "enum"):
            if source in stated:
                value = stated[source]
                found[name] = value[0] if source in {"examples", "enum"} else value
                break
    try:
        Checker(schema).check(found)
    except InvalidInput:
        return []
    return [found] if found or not schema.get("properties") else []


def shortened(value: Any) -> str:
    """Return a value for people: JSON, cut off."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
