"""vLLM servers, by their Prometheus metrics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from penstock.sidecar.fetching import SourceFailed, fetch
from penstock.sidecar.telemetry import VllmModel

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_CACHE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # of current servers, and of older ones
_PROMPT: Final = "vllm:prompt_tokens_total"
_GENERATION: Final = "vllm:generation_tokens_total"
_WANTED: Final = frozenset({_RUNNING, _WAITING, *_CACHE, _PROMPT, _GENERATION})
_MAX_LINES: Final = 10_000
_MAX_LINE: Final = 4096  # characters; the parser's time grows with their square

Series = tuple[str, str, str]  # metric, model, the other labels (such as the engine's number)
Values = dict[Series, float]


class VllmReader:
    """Reads one server, and keeps the counters of the last measurement."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self._session = session
        self._clock = clock
        self._before: Values = {}
        self._before_at = 0.0

    async def read(self) -> list[VllmModel]:
        """Return the models of the server. Raises SourceFailed."""
        reply = await fetch(self._session, self.url, "/metrics")
        if reply.status != 200:
            raise SourceFailed(f"HTTP status {reply.status}")
        now = self._clock()
        values = await asyncio.to_thread(parsed, reply.body)
        models = summed(values, self._before, now - self._before_at)
        self._before, self._before_at = values, now
        return models


def parsed(body: bytes) -> Values:
    """Return the metrics that are used here. Raises SourceFailed for a text without vLLM's metrics."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if _name(line) in _WANTED]
    if not lines:
        raise SourceFailed("the response holds no metrics of vLLM")
    if any(len(line) > _MAX_LINE for line in lines):
        raise SourceFailed(f"a series in the response has more than {_MAX_LINE} characters")
    if len(lines) > _MAX_LINES:
        raise SourceFailed(f"the response holds more than {_MAX_LINES} series")
    try:
        samples = [
            sample
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if sample.name in _WANTED and math.isfinite(sample.value)
        ]
    except Exception:  # noqa: BLE001 - its parser raises what it meets: KeyError, IndexError, …
        raise SourceFailed("the response is not in the format of Prometheus") from None
    return {(one.name, one.labels.get("model_name", ""), _others(one.labels)): one.value for one in samples}


def summed(values: Values, before: Values, seconds: float) -> list[VllmModel]:
    """Sum the metrics of each model over its engines; rates cover the time since ``before``."""
    by_model: dict[str, dict[str, Values]] = {}
    for series, value in values.items():
        metric, model, _ = series
        by_model.setdefault(model, {}).setdefault(metric, {})[series] = value
    return [
        VllmModel(
            name=model,
            requests_running=_total(values.get(_RUNNING)),
            requests_waiting=_total(values.get(_WAITING)),
            cache_usage=next((_largest(values[metric]) for metric in _CACHE if metric in values), None),
            prompt_tokens_per_second=_rate(values.get(_PROMPT), before, seconds),
            generation_tokens_per_second=_rate(values.get(_GENERATION), before, seconds),
        )
        for model, values in sorted(by_model.items())
    ]


def _name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]


def _others(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "model_name")


def _total(values: Values | None) -> int | None:
    return int(max(0.0, sum(values.values()))) if values else None


def _largest(values: Values) -> float:
    return round(max(0.0, *values.values()), 4)


def _rate(values: Values | None, before: Values, seconds: float) -> float | None:
    """Return one counter's rate over all engines; None at the first measurement and after a restart of an engine."""
    if not values or seconds <= 0:
        return None
    if any(series not in before or value < before[series] for series, value in values.items()):
        return None
    return round(sum(value - before[series] for series, value in values.items()) / seconds, 2)
