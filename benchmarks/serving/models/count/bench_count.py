"""A model that streams numbers with the time of each, by a clock that all processes of a machine share."""

from __future__ import annotations

import time
from collections.abc import Iterator


class Count:
    def predict(self, n: int, pause: float = 0.0) -> Iterator[dict[str, float]]:
        for number in range(n):
            if pause:
                time.sleep(pause)
            yield {"i": number, "at": time.monotonic()}
