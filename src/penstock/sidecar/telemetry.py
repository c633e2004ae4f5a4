"""The telemetry of a host. ``null`` always means "not known": not supported, not permitted, or not yet measured."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from penstock.web.reading import Moment

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, Meta(ge=0)]


class GpuProcess(Struct, frozen=True, kw_only=True):
    """A process that computes on a GPU; ``name`` is its program, without arguments."""

    pid: Count
    name: str | None = None
    memory_bytes: Count | None = None


class Gpu(Struct, frozen=True, kw_only=True):
    """One GPU, as its driver describes it."""

    index: Count
    name: str | None = None
    uuid: str | None = None
    memory_used_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    utilization_percent: Number | None = None
    temperature_celsius: float | None = None
    power_watts: Number | None = None
    power_limit_watts: Number | None = None
    processes: list[GpuProcess] | None = None


class Container(Struct, frozen=True, kw_only=True):
    """One container. The resources that it uses are known only while it runs."""

    id: str  # its first twelve characters
    name: str
    image: str
    state: str  # running, exited, …
    health: str | None = None  # healthy, unhealthy, starting; null without a health check
    cpu_percent: Number | None = None  # of one core, since the previous measurement
    memory_used_bytes: Count | None = None  # without the file cache that the kernel may drop
    memory_limit_bytes: Count | None = None


class VllmModel(Struct, frozen=True, kw_only=True):
    """One model of a vLLM server, over all its engines."""

    name: str
    requests_running: Count | None = None
    requests_waiting: Count | None = None
    cache_usage: Number | None = None  # 0 to 1, of the fullest engine's KV cache
    prompt_tokens_per_second: Number | None = None  # since the previous measurement
    generation_tokens_per_second: Number | None = None


class VllmServer(Struct, frozen=True, kw_only=True):
    """One vLLM server, according to its metrics."""

    url: str
    reachable: bool
    models: list[VllmModel] = []
    error: str | None = None


class HealthCheck(Struct, frozen=True, kw_only=True):
    """The health of one server. ``reachable`` means that it responded, with any status."""

    url: str
    reachable: bool
    status: int | None = None  # of HTTP
    latency_ms: Number | None = None
    error: str | None = None


class Telemetry(Struct, frozen=True, kw_only=True):
    """One measurement of a host."""

    sampled_at: Moment  # when it began, by the host's clock
    host: str
    gpus: list[Gpu] = []
    containers: list[Container] = []
    vllm: list[VllmServer] = []
    whisperx: list[HealthCheck] = []
    errors: dict[str, str] = {}  # by source: gpus, containers, "vllm HOST:PORT", "whisperx HOST:PORT"


class Report(Struct, frozen=True, kw_only=True):
    """A sidecar's response: its newest measurement, and the age of that by a monotonic clock."""

    age_seconds: Number
    telemetry: Telemetry
