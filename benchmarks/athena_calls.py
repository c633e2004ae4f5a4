"""Once calls through WebGate beside Penstock's own predict: CPU of the gateway per call, by turns in one run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database, process, until_ready
from benchmarks.raw_http import Caller
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

_ROUNDS = 9
_CALLS = 200  # of a round
_TOKEN = "benchmark-token"
_MODEL = """
from penstock import Image

class Model:
    async def predict(self, text: str, mark: str = "", picture: Image | None = None) -> dict[str, object]:
        return {"said": text + mark, "bytes": len(picture.data) if picture else 0}
"""
_MANIFEST = """
runtime = "python"
eager = true
concurrency = 8
[python]
class = "echo:Model"
"""
_PATH = "/v1/private/echo"
_TEXT = "the quick brown fox jumps over the lazy dog"
_PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # 102,408 bytes


async def run(server: EmbeddedServer) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        Path(folder).chmod(0o711)
        (Path(folder) / "echo.py").write_text(_MODEL)
        (Path(folder) / "echo.toml").write_text(_MANIFEST)
        async with fresh_database(server) as url, _gateway(url, folder) as (address, pid):
            credential = await _credential(address)
            return [
                *await _compared(address, pid, "text of 43 bytes", credential, picture=False),
                *await _compared(address, pid, "a picture of 100 KB", credential, picture=True),
            ]


@asynccontextmanager
async def _gateway(url: str, folder: str) -> AsyncIterator[tuple[str, int]]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "DATABASE_URL": url,
        "HTTP_PORT": str(port),
        "HTTP_HOST": "127.0.0.1",
        "AI_SERVICE_TOKEN": _TOKEN,
        "PENSTOCK_MODELS_DIR": folder,
        "PENSTOCK_DATA_DIR": f"{folder}/data",
    }
    async with process("-m", "penstock", "gateway", **environment) as child:
        await until_ready(address)
        yield address, child.pid


async def _credential(address: str) -> dict[str, Any]:
    body = {"name": "benchmark", "app_id": "bench", "services": ["echo"]}
    headers = {"Authorization": f"Bearer {_TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}/api/v1/athena/keys", json=body, headers=headers) as response,
    ):
        created: dict[str, Any] = await response.json()
        return created


async def _compared(address: str, pid: int, what: str, credential: dict[str, Any], *, picture: bool) -> list[Figure]:
    caller = await Caller.connect(address)
    bearer = f"Authorization: Bearer {credential['key']}\r\n"
    given: dict[str, Any] = {"text": _TEXT, "mark": "!"}
    message: dict[str, Any] = {
        "header": {"app_id": "bench", "status": 3},
        "parameter": {"echo": {"mark": "!", "result": {"format": "json"}}},
        "payload": {"text": {"encoding": "utf8", "status": 3, "text": base64.b64encode(_TEXT.encode()).decode()}},
    }
    if picture:
        encoded = base64.b64encode(_PICTURE).decode()
        given["picture"] = f"data:image/png;base64,{encoded}"
        message["payload"]["picture"] = {"encoding": "png", "status": 3, "image": encoded}
    body = msgspec.json.encode(message)
    requests = {
        "predict": caller.request("POST", "/api/v1/models/echo/predict", msgspec.json.encode(given), bearer),
        "webgate": caller.request("POST", _PATH, body, bearer),
        "signed": caller.request("POST", _signed(address, credential), body),
    }
    times: dict[str, list[float]] = {name: [] for name in requests}
    for request in requests.values():
        await _calls(caller, request, pid)  # warms up
    for _ in range(_ROUNDS):
        for name, request in requests.items():
            times[name].append(await _calls(caller, request, pid))
    caller.close()
    own = median(times["predict"])
    ratios = {
        name: median(one / other for one, other in zip(times[name], times["predict"], strict=True))
        for name in ("webgate", "signed")
    }
    return [
        _figure(f"once call through WebGate with {what}, CPU compared with predict", ratios["webgate"], "×",
                promise=1.3, at_most=True, note=f"predict: {1e6 * own:.0f} µs of the gateway per call"),
        _figure(f"the same, signed, with {what}", ratios["signed"], "×", note="HMAC-SHA256 verified in each call"),
    ]  # fmt: skip


def _signed(address: str, credential: dict[str, Any]) -> str:
    host, date = urlsplit(address).hostname, formatdate(usegmt=True)
    text = f"host: {host}\ndate: {date}\nPOST {_PATH} HTTP/1.1"
    made = base64.b64encode(hmac.new(credential["api_secret"].encode(), text.encode(), hashlib.sha256).digest())
    stated = (
        f'api_key="{credential["api_key"]}", algorithm="hmac-sha256", headers="host date request-line", '
        f'signature="{made.decode()}"'
    )
    query = {"host": host, "date": date, "authorization": base64.b64encode(stated.encode()).decode()}
    return f"{_PATH}?{urlencode(query)}"


async def _calls(caller: Caller, request: bytes, pid: int) -> float:
    """Return the seconds of CPU that the gateway used for each of some calls."""
    before = _cpu_seconds(pid)
    for _ in range(_CALLS):
        status, body = await caller.send(request)
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:300]!r}")
    return (_cpu_seconds(pid) - before) / _CALLS


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, of all its threads, in nanosecond resolution."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += int((task / "schedstat").read_text().split()[0])
    return found / 1e9


def _figure(scenario: str, value: float, unit: str, **fields: Any) -> Figure:
    return Figure(scenario=scenario, value=value, unit=unit, group="athena", **fields)
