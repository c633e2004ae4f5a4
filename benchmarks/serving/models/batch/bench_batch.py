"""A model whose batches take 20 ms, and 1 ms more for each call."""

from __future__ import annotations

import time


class Batch:
    def predict(self, n: int) -> int:
        return self.predict_batch([n])[0]

    def predict_batch(self, numbers: list[int]) -> list[int]:
        time.sleep(0.020 + 0.001 * len(numbers))
        return numbers
