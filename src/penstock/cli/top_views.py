"""How ``penstock top`` draws one frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.cli.output import harmless
from penstock.errors import PenstockError
from penstock.gateway.infra import InfraStatus, SidecarStatus
from penstock.jobs.job import Stats
from penstock.masking import mask_url
from penstock.sidecar.fetching import place
from penstock.sidecar.telemetry import Container, Gpu, HealthCheck, VllmServer

T = TypeVar("T")
Cell = Text | str | int | float | None

COMFORTABLE_WIDTH: Final = 140  # columns
_BAR: Final = 12  # columns
_GIBIBYTE: Final = 2**30
_UNKNOWN: Final = "–"


class _LastError(Struct):
    category: str
    message: str


class _Provider(Struct):
    """What is shown of a provider."""

    name: str
    configured: bool
    reachable: bool | None = None
    latency_ms: float | None = None
    error: str | None = None
    breaker: str | None = None
    wait_seconds: float | None = None
    running: int | None = None
    last_error: _LastError | None = None


class _Providers(Struct):
    providers: list[_Provider]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the gateway at ``url`` told, each as its JSON value or the error that came instead."""

    url: str
    infra: dict[str, Any] | PenstockError
    providers: dict[str, Any] | PenstockError
    stats: Stats | PenstockError

    @property
    def nothing(self) -> bool:
        """Whether the gateway told nothing at all."""
        return all(isinstance(part, PenstockError) for part in (self.infra, self.providers, self.stats))


def frame(look: Look) -> RenderableType:
    """One frame."""
    moment = datetime.now().astimezone().strftime("%H:%M:%S")
    return Group(_title("penstock top", f"{mask_url(look.url)}  {moment}"), *_parts(look))


def _parts(look: Look) -> Iterator[RenderableType]:
    if look.nothing:
        yield _error(look.infra)
        return
    infra = _read(look.infra, InfraStatus)
    if isinstance(infra, PenstockError):
        yield _error(infra)
    elif not infra.configured:
        yield Text("\nNo sidecars: INFRA_SIDECAR_URLS is not set at the gateway.", style="dim")
    else:
        for sidecar in infra.sidecars:
            yield from _sidecar(sidecar)
    yield from _providers(_read(look.providers, _Providers))
    yield from _queues(look.stats)


def _sidecar(sidecar: SidecarStatus) -> Iterator[RenderableType]:
    age = "" if sidecar.age_seconds is None else f"measured {_duration(sidecar.age_seconds)} ago"
    host = "" if sidecar.telemetry is None else f"{sidecar.telemetry.host}  "
    heading = _title(sidecar.name, host + age)
    if sidecar.error is not None:
        heading.append(f"  {harmless(sidecar.error)}", style="bold red")
    yield Text()
    yield heading
    if sidecar.telemetry is not None:
        told = sidecar.telemetry
        yield from _gpus(told.gpus)
        yield from _containers(told.containers)
        yield from _vllm(told.vllm)
        yield from _whisperx(told.whisperx)
        for source, problem in told.errors.items():
            if source in {"gpus", "containers"}:  # servers show theirs in their row
                yield Text(f"{source}: {harmless(problem)}", style="red")


def _gpus(gpus: Sequence[Gpu]) -> Iterator[RenderableType]:
    if gpus:
        yield _table(
            ("GPU", "busy", "memory", "GiB", "°C", "W", "processes"),
            (
                (
                    f"{gpu.index} {gpu.name or 'unknown'}",
                    _bar(gpu.utilization_percent, 100),
                    _bar(gpu.memory_used_bytes, gpu.memory_total_bytes),
                    _of(_gibibytes(gpu.memory_used_bytes), _gibibytes(gpu.memory_total_bytes)),
                    _number(gpu.temperature_celsius),
                    _of(_number(gpu.power_watts), _number(gpu.power_limit_watts)),
                    _processes(gpu),
                )
                for gpu in gpus
            ),
        )


def _containers(containers: Sequence[Container]) -> Iterator[RenderableType]:
    if containers:
        yield _table(
            ("container", "image", "state", "health", "CPU", "memory GiB"),
            (
                (
                    one.name,
                    one.image,
                    _coloured(one.state, good={"running"}),
                    _coloured(one.health, good={"healthy"}),
                    _number(one.cpu_percent, " %"),
                    _gibibytes(one.memory_used_bytes),
                )
                for one in containers
            ),
        )


def _vllm(servers: Sequence[VllmServer]) -> Iterator[RenderableType]:
    rows: list[Sequence[Cell]] = []
    for server in servers:
        where = place(server.url)
        if server.error is not None:
            rows.append((where, Text(harmless(server.error), style="red"), *[None] * 5))
        rows += [
            (
                where,
                model.name,
                _number(model.requests_running),
                _number(model.requests_waiting),
                _bar(model.cache_usage, 1),
                _number(model.prompt_tokens_per_second),
                _number(model.generation_tokens_per_second),
            )
            for model in server.models
        ]
    if rows:
        yield _table(("vLLM", "model", "running", "waiting", "KV cache", "prompt tokens/s", "tokens/s"), rows)


def _whisperx(checks: Sequence[HealthCheck]) -> Iterator[RenderableType]:
    if checks:
        yield _table(
            ("WhisperX", "state", "ms", "problem"),
            (
                (
                    place(check.url),
                    _coloured("up" if check.reachable else "away", good={"up"}),
                    _number(check.latency_ms),
                    check.error,
                )
                for check in checks
            ),
        )


def _providers(told: _Providers | PenstockError) -> Iterator[RenderableType]:
    if isinstance(told, PenstockError):
        yield _error(told)
        return
    shown = [one for one in told.providers if one.configured]
    if shown:
        yield Text()
        yield _table(
            ("provider", "state", "ms", "breaker", "running", "wait", "problem"),
            (
                (
                    one.name,
                    _coloured("up" if one.reachable else "away", good={"up"}),
                    _number(one.latency_ms),
                    _coloured(one.breaker, good={"closed"}) if one.breaker is not None else "",
                    _number(one.running),
                    _duration(one.wait_seconds) if one.wait_seconds else "",
                    one.error or (one.last_error.message if one.last_error is not None else None),
                )
                for one in shown
            ),
        )


def _queues(told: Stats | PenstockError) -> Iterator[RenderableType]:
    if isinstance(told, PenstockError):
        yield _error(told)
        return
    if told.queues:
        yield Text()
        yield _table(
            ("queue", "pending", "running", "completed", "failed", "oldest pending"),
            (
                (
                    f"{queue.task_type} / {queue.model_profile}",
                    _number(queue.pending),
                    _number(queue.running),
                    _number(queue.completed),
                    _number(queue.failed),
                    "" if queue.oldest_pending_seconds is None else _duration(queue.oldest_pending_seconds),
                )
                for queue in told.queues
            ),
        )


def _read(told: dict[str, Any] | PenstockError, kind: type[T]) -> T | PenstockError:
    if isinstance(told, PenstockError):
        return told
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError:
        return PenstockError("the gateway's answer is not what this version understands")


def _title(name: str, rest: str) -> Text:
    return Text.assemble((harmless(name), "bold"), "  ", (harmless(rest), "dim"))


def _error(error: object) -> Text:
    return Text(f"\n{harmless(str(error))}", style="bold red")


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    table = Table(box=None, header_style="bold dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_drawn(cell) for cell in row))
    return table


def _drawn(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text("" if cell is None else harmless(str(cell)))


def _bar(value: float | None, whole: float | None) -> Text:
    if value is None or not whole:
        return Text(_UNKNOWN, style="dim")
    share = min(max(value / whole, 0.0), 1.0)
    style = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    full = round(share * _BAR)
    return Text.assemble(("█" * full, style), ("░" * (_BAR - full), "dim"), f" {100 * share:3.0f} %")


def _coloured(word: str | None, *, good: set[str]) -> Text:
    if word is None:
        return Text(_UNKNOWN, style="dim")
    return Text(harmless(word), style="green" if word in good else "yellow")


def _number(value: float | None, unit: str = "") -> str:
    return _UNKNOWN if value is None else f"{value:,.{0 if value % 1 == 0 else 1}f}{unit}"


def _gibibytes(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value / _GIBIBYTE:.1f}"


def _of(value: str, limit: str) -> str:
    return value if limit == _UNKNOWN else f"{value} / {limit}"


def _processes(gpu: Gpu) -> str:
    if gpu.processes is None:
        return _UNKNOWN
    return ", ".join(f"{process.name or process.pid} {_gibibytes(process.memory_bytes)}" for process in gpu.processes)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
