"""The scenarios of live calls, round by round over all subjects."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.figures import Figure
from benchmarks.serving import subjects
from benchmarks.serving.load import Found, Plan
from benchmarks.serving.subjects import Subject
from penstock.postgres.embedded import EmbeddedServer

ROUNDS = 3
_SECONDS = 3.0
_ECHO = json.dumps({"text": "a penstock feeds a turbine", "n": 3})
_IDEAL = 16 / (0.020 + 16 * 0.001)  # calls a second in full batches
_CHUNKS = 30_000


@dataclass(slots=True)
class Measured:
    """Samples of one subject in one scenario."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def spread(self, name: str) -> str:
        return f"{min(self.values[name]):,.2f} to {max(self.values[name]):,.2f}"


Results = dict[tuple[str, str], Measured]  # by scenario and subject


async def run(_server: EmbeddedServer) -> list[Figure]:
    """All scenarios; needs no database of the benchmark's."""
    figures: list[Figure] = []
    running: list[Subject] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        folder.chmod(0o711)
        running.append(await stack.enter_async_context(subjects.penstock(folder)))
        for name in subjects.PACKAGES:
            problem = subjects.prepare(name)
            if problem is None:
                try:
                    running.append(await stack.enter_async_context(subjects.rival(name)))
                except RuntimeError as error:
                    problem = str(error)
            if problem is not None:
                figures.append(
                    Figure(scenario=f"{name}: not measured", value=float("nan"), unit="", note=problem, group="serving")
                )
        running.append(await stack.enter_async_context(subjects.bare()))
        results = await _measure(running, folder)
    return figures + _figures(results, [subject.name for subject in running])


async def _measure(running: list[Subject], folder: Path) -> Results:
    results: Results = {}
    blob = folder / "blob"
    blob.write_bytes(b"\x00\xff" * 2**19)
    form = folder / "form"
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="b.bin"\r\n'
    kind = b"Content-Type: application/octet-stream\r\n\r\n"
    form.write_bytes(head + kind + blob.read_bytes() + b"\r\n--edge--\r\n")
    for number in range(ROUNDS + 1):
        for subject in running:
            print(f"  round {number} of {ROUNDS}: {subject.name}", flush=True)
            keep = number > 0  # the first round warms up
            await _round(subject, results if keep else {}, blob, form)
    return results


async def _round(subject: Subject, results: Results, blob: Path, form: Path) -> None:
    def measured(scenario: str) -> Measured:
        return results.setdefault((scenario, subject.name), Measured())

    if "echo" in subject.paths:
        for scenario, connections in (("echo32", 32), ("echo1", 1)):
            before = subject.cpu_seconds()
            found = await _load(subject, "echo", body=_ECHO, connections=connections, seconds=_SECONDS)
            used = subject.cpu_seconds() - before
            to = measured(scenario)
            to.add("rate", found.answers / found.seconds)
            to.add("cpu", 1e6 * used / found.answers)
            to.add("p50", found.p50_ms)
            to.add("p99", found.p99_ms)
    if "batch" in subject.paths:
        found = await _load(subject, "batch", body='{"n": 5}' if subject.name != "bentoml" else '{"n": [5]}',
                            connections=64, seconds=_SECONDS)  # fmt: skip
        measured("batch").add("rate", found.answers / found.seconds)
    if "count" in subject.paths:
        await _streams(subject, measured("count"))
    for scenario, file, kind in (
        ("blob", form, "multipart/form-data; boundary=edge"),
        ("raw", blob, "application/octet-stream"),
    ):
        if scenario in subject.paths:
            found = await _load(subject, scenario, body=f"@{file}", seconds=1.5, kind=kind)
            measured(scenario).add("p50", found.p50_ms)


async def _streams(subject: Subject, to: Measured) -> None:
    found = await _load(subject, "count", body=json.dumps({"n": _CHUNKS}), stream=True)
    if found.answers != _CHUNKS:
        raise RuntimeError(f"{subject.name} streamed {found.answers} chunks of {_CHUNKS}")
    to.add("rate", found.answers / found.seconds)
    first = [
        (await _load(subject, "count", body=json.dumps({"n": 3, "pause": 0.02}), stream=True)).delays_ms[0]
        for _ in range(7)
    ]
    to.add("first", statistics.median(first))


async def _load(
    subject: Subject,
    scenario: str,
    *,
    body: str,
    connections: int = 1,
    seconds: float = 1.0,
    stream: bool = False,
    kind: str = "application/json",
) -> Found:
    plan = Plan(
        port=subject.port,
        path=subject.paths[scenario],
        headers={**subject.headers, "Content-Type": kind},
        body=body,
        connections=connections,
        seconds=seconds,
        stream=stream,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.serving.load", msgspec.json.encode(plan).decode()),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    if process.returncode:
        raise RuntimeError(f"the load on {subject.name} ({scenario}) failed")
    found = msgspec.json.decode(out, type=Found)
    if found.refused or not found.answers:
        raise RuntimeError(f"{subject.name} refused {found.refused} calls of {scenario}")
    return found


def _figures(results: Results, names: list[str]) -> list[Figure]:
    figures: list[Figure] = []

    def rows(
        scenario: str,
        text: str,
        value: str,
        unit: str,
        promise: float | None,
        *,
        at_most: bool = False,
        scale: Callable[[float], float] = float,
        note: Callable[[Measured], str] = lambda _: "",
    ) -> None:
        for name in names:
            measured = results.get((scenario, name))
            if measured is None or value not in measured.values:
                continue
            ours = name == "penstock"
            figures.append(
                Figure(
                    scenario=f"{text}: {name}",
                    value=scale(measured.median(value)),
                    unit=unit,
                    promise=promise if ours else None,
                    at_most=at_most,
                    note=note(measured) or measured.spread(value),
                    group="serving",
                )
            )

    def latency(measured: Measured) -> str:
        return f"p50 {measured.median('p50'):.2f} ms, p99 {measured.median('p99'):.2f} ms"

    rows("echo32", "echo, 32 connections", "rate", "/s", 6000, note=latency)
    rows("echo32", "its CPU, all processes", "cpu", "µs a call", 160, at_most=True)
    rows("echo1", "echo, one caller, p50", "p50", "ms", 0.5, at_most=True)
    rows("batch", "batches of 16, 64 callers", "rate", "% of the ideal", 93, scale=lambda rate: 100 * rate / _IDEAL)
    rows("count", "first chunk behind the model", "first", "ms", 1.0, at_most=True)
    rows("count", "one stream of 30,000 chunks", "rate", "chunks/s", 30_000)
    for scenario, text in (("blob", "1 MB as a form"), ("raw", "1 MB as it is")):
        rows(scenario, f"{text}, p50", "p50", "ms", None)
        ours, limit = results.get((scenario, "penstock")), results.get((scenario, "bare upload"))
        if ours is not None and limit is not None:
            figures.append(
                Figure(
                    scenario=f"{text}, above the bare upload",
                    value=ours.median("p50") - limit.median("p50"),
                    unit="ms",
                    promise=1.0,
                    at_most=True,
                    group="serving",
                )
            )
    return figures
