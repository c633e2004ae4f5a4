"""vLLM by its Prometheus metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from penstock.sidecar.asking import Unanswered, ask
from penstock.sidecar.telemetry import VllmModel

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_CACHE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # of today's servers, and of older ones
_PROMPT: Final = "vllm:prompt_tokens_total"
_GENERATION: Final = "vllm:generation_tokens_total"
_WANTED: Final = frozenset({_RUNNING, _WAITING, *_CACHE, _PROMPT, _GENERATION})
_MOST_LINES: Final = 10_000

Series = tuple[str, str, str]  # metric, model, the other labels (such as the engine's number)
Values = Mapping[Series, float]


class VllmReader:
    """Reads one server; remembers its counters of the last time."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self._session = session
        self._clock = clock
        self._before: Values = {}
        self._before_at = 0.0

    async def read(self) -> list[VllmModel]:
        """Its models; raises Unanswered."""
        reply = await ask(self._session, self.url, "/metrics")
        if reply.status != 200:
            raise Unanswered(f"HTTP status {reply.status}")
        now = self._clock()
        values = parsed(reply.body)
        models = summed(values, self._before, now - self._before_at)
        self._before, self._before_at = values, now
        return models


def parsed(body: bytes) -> Values:
    """The metrics that are of interest here; raises Unanswered for what is no such text."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if _name(line) in _WANTED]
    if not lines:
        raise Unanswered("the answer holds no metrics of vLLM")
    if len(lines) > _MOST_LINES:
        raise Unanswered(f"the answer holds more than {_MOST_LINES} series")
    try:
        samples = [
            sample
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if sample.name in _WANTED and math.isfinite(sample.value)
        ]
    except Exception:  # noqa: BLE001 - its parser lets through whatever it trips over: KeyError, IndexError, …
        raise Unanswered("the answer is not in the format of Prometheus") from None
    return {(one.name, one.labels.get("model_name", ""), _others(one.labels)): one.value for one in samples}


def summed(values: Values, before: Values, seconds: float) -> list[VllmModel]:
    """Each model over its engines; rates over the time since ``before``."""
    return [
        VllmModel(
            name=model,
            requests_running=_total(values, _RUNNING, model),
            requests_waiting=_total(values, _WAITING, model),
            cache_usage=_cache(values, model),
            prompt_tokens_per_second=_rate(values, before, _PROMPT, model, seconds),
            generation_tokens_per_second=_rate(values, before, _GENERATION, model, seconds),
        )
        for model in sorted({model for _, model, _ in values})
    ]


def _name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]


def _others(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "model_name")


def _of(values: Values, metric: str, model: str) -> Iterable[tuple[Series, float]]:
    return (item for item in values.items() if item[0][0] == metric and item[0][1] == model)


def _total(values: Values, metric: str, model: str) -> int | None:
    found = [value for _, value in _of(values, metric, model)]
    return int(max(0.0, sum(found))) if found else None


def _cache(values: Values, model: str) -> float | None:
    for metric in _CACHE:
        found = [value for _, value in _of(values, metric, model)]
        if found:
            return round(max(0.0, *found), 4)
    return None


def _rate(values: Values, before: Values, metric: str, model: str, seconds: float) -> float | None:
    """Of one counter over all engines; None at the first look, and when an engine began to count anew."""
    found = list(_of(values, metric, model))
    if not found or seconds <= 0 or any(series not in before or value < before[series] for series, value in found):
        return None
    return round(sum(value - before[series] for series, value in found) / seconds, 2)
