"""The scenarios of live calls, round by round over all subjects."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.figures import Figure
from benchmarks.serving import subjects
from benchmarks.serving.load import Found, Plan
from benchmarks.serving.subjects import Subject
from penstock.postgres.embedded import EmbeddedServer

ROUNDS = 3  # measured rounds; one before them warms up
_SECONDS = 3.0
_BLOB_SECONDS = 1.5
_WARM_UP_SECONDS = 1.0
_ECHO = '{"text":"a penstock feeds a turbine","n":3}'
_IDEAL = 16 / (0.020 + 16 * 0.001)  # calls a second in full batches
_CHUNKS = 30_000
_FIRST_CHUNKS = 40  # streams in a round
_BLOB = 2**20  # bytes
_OURS = "penstock"
_BARE = "bare upload"


class VoidError(Exception):
    """A response is not the expected one, so its speed means nothing."""


@dataclass(slots=True)
class Measured:
    """Samples of one subject in one scenario."""

    values: dict[str, list[float]] = field(default_factory=dict)
    void: str | None = None  # why the samples do not count

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def spread(self, name: str) -> str:
        values = self.values[name]
        return " to ".join(f"{one:,.0f}" if one >= 100 else f"{one:.2f}" for one in (min(values), max(values)))


@dataclass(frozen=True, slots=True)
class Uploads:
    """The files that uploads send."""

    blob: Path
    form: Path

    @classmethod
    def make(cls, folder: Path) -> Uploads:
        made = cls(folder / "blob", folder / "form")
        data = b"\x00\xff" * (_BLOB // 2)
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="b.bin"\r\n'
        kind = b"Content-Type: application/octet-stream\r\n\r\n"
        made.blob.write_bytes(data)
        made.form.write_bytes(head + kind + data + b"\r\n--edge--\r\n")
        return made


Results = dict[tuple[str, str], Measured]  # by scenario and subject
Scenario = Callable[[Subject, Measured, float], Awaitable[None]]  # the last argument is a factor for the usual seconds


async def run(_server: EmbeddedServer) -> list[Figure]:
    """Run all scenarios. The benchmark's database server is not needed."""
    absent: dict[str, str] = {}
    running: list[Subject] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        folder.chmod(0o711)
        running.append(await stack.enter_async_context(subjects.penstock(folder)))
        for name in subjects.PACKAGES:
            problem = await asyncio.to_thread(subjects.prepare, name)
            if problem is None:
                try:
                    running.append(await stack.enter_async_context(subjects.rival(name)))
                except RuntimeError as error:
                    problem = str(error)
            if problem is not None:
                absent[subjects.label(name)] = problem
        if subjects.label("fastapi") not in absent:
            running.append(await stack.enter_async_context(subjects.bare()))
        results = await _measure(running, Uploads.make(folder))
    return _figures(results, running) + [
        Figure(scenario=f"{name}: not measured", value=math.nan, unit="", note=problem, group="serving")
        for name, problem in absent.items()
    ]


async def _measure(running: list[Subject], uploads: Uploads) -> Results:
    """Measure round by round, and in each round scenario by scenario, so that a noisy moment affects all subjects."""
    scenarios: dict[str, Scenario] = {
        "echo": _echo,
        "batch": _batch,
        "count": _count,
        "blob": partial(_upload, scenario="blob", body=uploads.form, kind="multipart/form-data; boundary=edge"),
        "raw": partial(_upload, scenario="raw", body=uploads.blob, kind="application/octet-stream"),
    }
    results: Results = {}
    for number in range(ROUNDS + 1):
        for scenario, measure in scenarios.items():
            print(f"  round {number} of {ROUNDS}: {scenario}", flush=True)
            for subject in running:
                if scenario not in subject.paths:
                    continue
                to = results.setdefault((scenario, subject.name), Measured())
                try:
                    if number > 0:
                        await measure(subject, to, 1.0)
                    else:
                        await measure(subject, Measured(), _WARM_UP_SECONDS / _SECONDS)
                except VoidError as problem:
                    to.void = str(problem)
    return results


async def _echo(subject: Subject, to: Measured, share: float) -> None:
    for connections in (32, 1):
        before = subject.cpu_seconds()
        found = await _load(subject, "echo", body=_ECHO, connections=connections, seconds=share * _SECONDS)
        used = subject.cpu_seconds() - before
        if json.loads(found.first) != json.loads(_ECHO):
            raise VoidError(f"returned {found.first[:100]}")
        to.add(f"rate {connections}", found.responses / found.seconds)
        to.add(f"cpu {connections}", 1e6 * used / found.responses)
        to.add(f"own cpu {connections}", found.own_cpu_us)
        to.add(f"p50 {connections}", found.p50_ms)
        to.add(f"p99 {connections}", found.p99_ms)


async def _batch(subject: Subject, to: Measured, share: float) -> None:
    body = '{"n": [5]}' if subject.name == "bentoml" else '{"n": 5}'  # it batches lists
    found = await _load(subject, "batch", body=body, connections=64, seconds=share * _SECONDS)
    if "5" not in found.first:
        raise VoidError(f"returned {found.first[:100]}")
    to.add("rate", found.responses / found.seconds)


async def _count(subject: Subject, to: Measured, _share: float) -> None:
    found = await _load(subject, "count", body=json.dumps({"n": _CHUNKS}), streams=1)
    if found.responses != _CHUNKS:
        raise VoidError(f"{found.responses} chunks came of {_CHUNKS}")
    to.add("rate", found.responses / found.seconds)
    found = await _load(subject, "count", body=json.dumps({"n": 2, "pause": 0.005}), streams=_FIRST_CHUNKS)
    if found.responses != 2 * _FIRST_CHUNKS:
        raise VoidError(f"{found.responses} chunks came of {2 * _FIRST_CHUNKS}")
    to.add("first", statistics.median(found.delays_ms))


async def _upload(subject: Subject, to: Measured, share: float, *, scenario: str, body: Path, kind: str) -> None:
    found = await _load(subject, scenario, body=f"@{body}", seconds=share * _BLOB_SECONDS, kind=kind)
    if subject.name != _BARE and str(_BLOB) not in found.first:
        raise VoidError(f"returned {found.first[:100]}")
    to.add("p50", found.p50_ms)


async def _load(
    subject: Subject,
    scenario: str,
    *,
    body: str,
    connections: int = 1,
    seconds: float = 1.0,
    streams: int = 0,
    kind: str = "application/json",
) -> Found:
    """Return what one run of the load generator measured. Raises VoidError unless every response is as expected."""
    plan = Plan(
        port=subject.port,
        path=subject.paths[scenario],
        headers={**subject.headers, "Content-Type": kind},
        body=body,
        connections=connections,
        seconds=seconds,
        streams=streams,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.serving.load", msgspec.json.encode(plan).decode()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, problem = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise VoidError("did not finish within a minute") from None
    if process.returncode:
        raise VoidError((problem.decode().strip().splitlines() or ["the load generator failed"])[-1][:200])
    found = msgspec.json.decode(out, type=Found)
    if found.refused or not found.responses:
        raise VoidError(f"refused {found.refused} calls of {found.refused + found.responses}")
    if found.different:
        raise VoidError(f"returned something else in {found.different} calls of {found.responses}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A row of the table: how a scenario is shown for each subject."""

    scenario: str
    text: str
    value: str
    unit: str
    promise: float | None = None
    at_most: bool = False
    scale: float = 1.0
    note: Callable[[Measured], str] | None = None


def _latency(connections: int) -> Callable[[Measured], str]:
    return lambda it: f"p50 {it.median(f'p50 {connections}'):.2f} ms, p99 {it.median(f'p99 {connections}'):.2f} ms"


_ROWS = (
    _Row(scenario="echo", text="echo, 32 connections", value="rate 32", unit="/s", promise=6000, note=_latency(32)),
    _Row(
        scenario="echo",
        text="its CPU, all processes",
        value="cpu 32",
        unit="µs a call",
        promise=160,
        at_most=True,
        note=lambda it: f"{it.spread('cpu 32')}; the load generator's own {it.median('own cpu 32'):.1f}",
    ),
    _Row(scenario="echo", text="echo, one caller, p50", value="p50 1", unit="ms", promise=0.5, at_most=True),
    _Row(
        scenario="batch",
        text="batches of 16, 64 callers",
        value="rate",
        unit="% of the ideal",
        promise=93,
        scale=100 / _IDEAL,
        note=lambda it: f"{it.spread('rate')} /s",
    ),
    _Row(scenario="count", text="first chunk behind the model", value="first", unit="ms", promise=1.0, at_most=True),
    _Row(scenario="count", text="one stream of 30,000 chunks", value="rate", unit="chunks/s", promise=30_000),
    _Row(scenario="blob", text="1 MB as a form, p50", value="p50", unit="ms"),
    _Row(scenario="raw", text="1 MB as it is, p50", value="p50", unit="ms"),
)


def _figures(results: Results, running: list[Subject]) -> list[Figure]:
    figures: list[Figure] = []
    for row in _ROWS:
        figures += [figure for subject in running if (figure := _figure(row, results, subject)) is not None]
        ours, bare = results.get((row.scenario, _OURS)), results.get((row.scenario, _BARE))
        if ours is not None and bare is not None and not ours.void and not bare.void:
            above = ours.median(row.value) - bare.median(row.value)
            text = row.text.replace(", p50", ", above the bare upload")
            figures.append(Figure(scenario=text, value=above, unit="ms", promise=1.0, at_most=True, group="serving"))
    return figures


def _figure(row: _Row, results: Results, subject: Subject) -> Figure | None:
    """Return the subject's figure in a row; one without a number states why there is none."""
    promise = row.promise if subject.name == _OURS else None
    scenario = f"{row.text}: {subject.label}"
    measured = results.get((row.scenario, subject.name))
    if measured is None:
        why = subjects.LEFT_OUT.get(subject.name, {}).get(row.scenario)
        return Figure(scenario=scenario, value=math.nan, unit="", note=why, group="serving") if why else None
    if measured.void is not None:
        note = f"void: {measured.void}"
        return Figure(scenario=scenario, value=math.nan, unit="", promise=promise, note=note, group="serving")
    note = row.note(measured) if row.note is not None else measured.spread(row.value)
    unequal = subjects.UNEQUAL.get(subject.name) if row.value == "rate 32" else None
    return Figure(
        scenario=scenario,
        value=row.scale * measured.median(row.value),
        unit=row.unit,
        promise=promise,
        at_most=row.at_most,
        note=f"{note}; {unequal}" if unequal else note,
        group="serving",
    )
