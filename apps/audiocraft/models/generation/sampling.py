"""Sampling of codes with a random generator for each sample, so that a seed gives the same sound in any batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

_TINY: Final = 1e-20  # keeps the logarithm of a random zero finite


class Sampler(LogitsProcessor):
    """Chooses codes among the ``top_k`` most likely ones, by adding Gumbel noise: the largest sum is then a sample.

    Rows are the codebooks of the first sample, then those of the second, and so on.
    """

    def __init__(self, seeds: Sequence[int], *, top_k: int, temperature: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: alike on all devices
        self._top_k = top_k
        self._temperature = temperature

    def __call__(self, _codes: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / self._temperature
        least = torch.topk(scores, min(self._top_k, scores.shape[-1])).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
        shape = scores.shape[0] // len(self._generators), scores.shape[1]
        uniform = torch.cat([torch.rand(shape, generator=generator) for generator in self._generators])
        return scores - torch.log(-torch.log(uniform.clamp_min(_TINY))).to(scores.device)


class SamplerLast(LogitsProcessorList):
    """Processors of which a sampler is the last: ``generate`` appends the guidance, whose result is to be sampled."""

    def append(self, processor: LogitsProcessor) -> None:
        self.insert(len(self) - 1, processor)


class EachStep(StoppingCriteria):
    """Calls a function with the number of steps that were done; never stops. The function may raise."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self._call = call
        self._steps = 0

    def __call__(self, codes: torch.LongTensor, _scores: torch.Tensor, **_more: Any) -> torch.Tensor:
        self._steps += 1
        self._call(self._steps)
        return torch.zeros(codes.shape[0], dtype=torch.bool, device=codes.device)
