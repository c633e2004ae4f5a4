"""Draw one frame of ``penstock top``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from rich.console import RenderableType
from rich.text import Text

from penstock.cli.output import harmless
from penstock.cli.top_layout import Bar, Column, FittedTable, Frame, Section
from penstock.errors import PenstockError
from penstock.jobs.counts import Stats
from penstock.masking import mask_url
from penstock.sidecar.fetching import place
from penstock.sidecar.infra import InfraStatus, SidecarStatus
from penstock.sidecar.telemetry import Container, Gpu, HealthCheck, VllmServer

T = TypeVar("T")
Cell = Text | Bar | str | int | float | None

COMFORTABLE_WIDTH: Final = 140  # columns
_GIBIBYTE: Final = 2**30
_UNKNOWN: Final = "–"


class _LastError(Struct):
    category: str
    message: str


class _Provider(Struct):
    """The fields of a provider that are shown."""

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
class View:
    """The reports of the gateway at ``url``, each as its JSON value or the error that came instead."""

    url: str
    infra: dict[str, Any] | PenstockError
    providers: dict[str, Any] | PenstockError
    stats: Stats | PenstockError

    @property
    def nothing(self) -> bool:
        """Whether all requests to the gateway failed."""
        return all(isinstance(part, PenstockError) for part in (self.infra, self.providers, self.stats))


def frame(view: View, *, height: int | None = None) -> Frame:
    """Return one frame, in ``height`` lines at most."""
    moment = datetime.now().astimezone().strftime("%H:%M:%S")
    return Frame(_title("penstock top", f"{mask_url(view.url)}  {moment}"), list(_sections(view)), height=height)


def _sections(view: View) -> Iterator[Section]:
    if view.nothing:
        yield Section("the error", [_error(view.infra)])
        return
    infra = _read(view.infra, InfraStatus)
    if isinstance(infra, PenstockError):
        yield Section("the sidecars", [_error(infra)])
    elif not infra.configured:
        text = Text("No sidecars: INFRA_SIDECAR_URLS is not set at the gateway.", style="dim")
        yield Section("the sidecars", [text])
    else:
        for sidecar in infra.sidecars:
            yield from _sidecar(sidecar)
    yield from _tables("providers", _providers, _read(view.providers, _Providers))
    yield from _tables("queues", _queues, view.stats)


def _sidecar(sidecar: SidecarStatus) -> Iterator[Section]:
    age = "" if sidecar.age_seconds is None else f"measured {_duration(sidecar.age_seconds)} ago"
    host = "" if sidecar.telemetry is None else f"{sidecar.telemetry.host}  "
    heading = _title(sidecar.name, host + age)
    if sidecar.error is not None:
        heading.append(f"  {harmless(sidecar.error)}", style="bold red")
    content: list[RenderableType] = [heading]
    found = sidecar.telemetry
    if found is not None:
        for source, problem in found.errors.items():
            if source in {"gpus", "containers"}:  # servers show theirs in their row
                content.append(Text(f"{source}: {harmless(problem)}", style="red"))
        content += _gpus(found.gpus)
    yield Section(f"the GPUs of {harmless(sidecar.name)}", content)
    if found is not None:
        for name, tables in (
            ("containers", _containers(found.containers)),
            ("vLLM", _vllm(found.vllm)),
            ("WhisperX", _whisperx(found.whisperx)),
        ):
            if tables:
                yield Section(f"{name} of {harmless(sidecar.name)}", tables)


def _tables(name: str, draw: Callable[[T], list[RenderableType]], value: T | PenstockError) -> Iterator[Section]:
    """Yield the section of a value, or of the error that came in its place."""
    content = [_error(value)] if isinstance(value, PenstockError) else draw(value)
    if content:
        yield Section(name, content)


def _gpus(gpus: Sequence[Gpu]) -> list[RenderableType]:
    columns = (
        Column("GPU", least=12),
        Column("busy"),
        Column("memory"),
        Column("GiB", rank=2),
        Column("°C", rank=3),
        Column("W", rank=3),
        Column("processes", rank=1, least=12),
    )
    return _table(
        columns,
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


def _containers(containers: Sequence[Container]) -> list[RenderableType]:
    columns = (
        Column("container", least=12),
        Column("image", rank=3, least=16),
        Column("state"),
        Column("health", rank=1),
        Column("CPU", rank=2),
        Column("memory GiB", rank=2),
    )
    return _table(
        columns,
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


def _vllm(servers: Sequence[VllmServer]) -> list[RenderableType]:
    columns = (
        Column("vLLM", least=12),
        Column("model", least=12),
        Column("running"),
        Column("waiting"),
        Column("KV cache", rank=1),
        Column("prompt tokens/s", rank=3),
        Column("tokens/s", rank=2),
    )
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
    return _table(columns, rows)


def _whisperx(checks: Sequence[HealthCheck]) -> list[RenderableType]:
    return _table(
        (Column("WhisperX", least=12), Column("state"), Column("ms", rank=1), Column("problem", least=12)),
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


def _providers(status: _Providers) -> list[RenderableType]:
    columns = (
        Column("provider", least=12),
        Column("state"),
        Column("ms", rank=2),
        Column("breaker", rank=1),
        Column("running", rank=1),
        Column("wait", rank=2),
        Column("problem", least=16),
    )
    return _table(
        columns,
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
            for one in status.providers
            if one.configured
        ),
    )


def _queues(stats: Stats) -> list[RenderableType]:
    columns = (
        Column("queue", least=16),
        Column("pending"),
        Column("running"),
        Column("completed", rank=2),
        Column("failed", rank=1),
        Column("oldest pending", rank=3),
    )
    return _table(
        columns,
        (
            (
                f"{queue.task_type} / {queue.model_profile}",
                _number(queue.pending),
                _number(queue.running),
                _number(queue.completed),
                _number(queue.failed),
                "" if queue.oldest_pending_seconds is None else _duration(queue.oldest_pending_seconds),
            )
            for queue in stats.queues
        ),
    )


def _read(value: dict[str, Any] | PenstockError, kind: type[T]) -> T | PenstockError:
    if isinstance(value, PenstockError):
        return value
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return PenstockError("this version does not understand the gateway's response")


def _title(name: str, rest: str) -> Text:
    return Text.assemble((harmless(name), "bold"), "  ", (harmless(rest), "dim"))


def _error(error: object) -> Text:
    return Text(harmless(str(error)), style="bold red")


def _table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> list[RenderableType]:
    """Return a table, or nothing where there is no row."""
    drawn = [[_drawn(cell) for cell in row] for row in rows]
    return [FittedTable(columns, drawn)] if drawn else []


def _drawn(cell: Cell) -> Text | Bar:
    return cell if isinstance(cell, (Text, Bar)) else Text("" if cell is None else harmless(str(cell)))


def _bar(value: float | None, whole: float | None) -> Text | Bar:
    return Text(_UNKNOWN, style="dim") if value is None or not whole else Bar(value / whole)


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
