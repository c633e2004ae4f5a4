"""BentoML with one worker, run in its own environment: ``bentoml serve bentoml_app:Bench``."""

import asyncio
import hmac
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import bentoml

TOKEN = ("Bearer " + os.environ["TOKEN"]).encode()


class Checked:
    """Lets requests with the token pass."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in {"/echo", "/batch", "/count", "/blob", "/raw"}:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, TOKEN):
                await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body"})
                return
        await self._app(scope, receive, send)


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
    async def count(self, n: int, pause: float = 0.0) -> AsyncGenerator[str, None]:
        for number in range(n):
            if pause:
                await asyncio.sleep(pause)
            yield 'data: {"i":%d,"at":%r}\n\n' % (number, time.monotonic())

    @bentoml.api(route="/blob")
    def blob(self, file: Path) -> int:
        return len(file.read_bytes())

    @bentoml.api(route="/raw")
    def raw(self, data: Path, /) -> int:
        return len(data.read_bytes())


Bench.add_asgi_middleware(Checked)
