"""BentoML with one worker. Run in an environment of its own: ``bentoml serve bentoml_app:Bench``."""

import time
from collections.abc import Generator

import bentoml


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": True})
class Bench:
    @bentoml.api(route="/echo")
    async def echo(self, text: str, n: int) -> dict:
        return {"text": text, "n": n}

    @bentoml.api(route="/batch", batchable=True, max_batch_size=16, max_latency_ms=10_000)
    def batch(self, n: list[int]) -> list[int]:
        time.sleep(0.020 + 0.001 * len(n))
        return n

    @bentoml.api(route="/count")
    def count(self, n: int, pause: float = 0.0) -> Generator[str, None, None]:
        for number in range(n):
            if pause:
                time.sleep(pause)
            yield 'data: {"i":%d,"at":%r}\n\n' % (number, time.monotonic())
