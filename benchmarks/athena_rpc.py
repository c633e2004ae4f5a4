"""Once calls over gRPC beside WebGate and Penstock's own predict: CPU of the gateway per call, by turns in one run."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio
import msgspec

from benchmarks.figures import Figure
from benchmarks.ground import fresh_database, process, until_ready
from benchmarks.raw_http import Caller
from penstock.athena.protocol.messages.loader_pb2 import LoaderInput, LoaderOutput, MetaDesc, Payload
from penstock.athena.protocol.messages.xsf_pb2 import DataMeta, ReqData, ResData
from penstock.postgres.embedded import EmbeddedServer
from penstock.supervisor.ports import free_port

_ROUNDS = 15
_CALLS = 300  # of a round
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
_TEXT = "the quick brown fox jumps over the lazy dog"
_PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # 102,408 bytes

Once = Callable[[], Awaitable[None]]


async def run(server: EmbeddedServer) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        Path(folder).chmod(0o711)
        (Path(folder) / "echo.py").write_text(_MODEL)
        (Path(folder) / "echo.toml").write_text(_MANIFEST)
        async with fresh_database(server) as url, _gateway(url, folder) as (address, rpc_port, pid):
            figures: list[Figure] = []
            for what, picture in (("a text of 43 bytes", b""), ("a picture of 100 KB", _PICTURE)):
                async with _faces(address, rpc_port, picture) as faces:
                    figures += await _compared(faces, pid, what)
            return figures


@asynccontextmanager
async def _gateway(url: str, folder: str) -> AsyncIterator[tuple[str, int, int]]:
    port, rpc_port = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "DATABASE_URL": url,
        "HTTP_PORT": str(port),
        "HTTP_HOST": "127.0.0.1",
        "PENSTOCK_ATHENA_GRPC_PORT": str(rpc_port),
        "PENSTOCK_MODELS_DIR": folder,
        "PENSTOCK_DATA_DIR": f"{folder}/data",
    }
    async with process("-m", "penstock", "gateway", **environment) as child:
        await until_ready(address)
        yield address, rpc_port, child.pid


@asynccontextmanager
async def _faces(address: str, rpc_port: int, picture: bytes) -> AsyncIterator[dict[str, Once]]:
    """Yield one call by each face, over connections that stay open."""
    caller = await Caller.connect(address)
    predict = caller.request("POST", "/api/v1/models/echo/predict", _as_input(picture))
    webgate = caller.request("POST", "/v1/private/echo", _as_message(picture))
    message = _as_call(picture)

    async def over_http(request: bytes) -> None:
        status, body = await caller.send(request)
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:300]!r}")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc_port}") as channel:
        call: Any = channel.unary_unary("/utils.XsfCall/call")

        async def over_grpc() -> None:
            response = ResData.FromString(await call(message))
            output = LoaderOutput.FromString(response.data[0].data)
            if output.code or not output.pl:
                raise RuntimeError(f"code {output.code}: {output.err}")

        try:
            yield {
                "predict": lambda: over_http(predict),
                "webgate": lambda: over_http(webgate),
                "grpc": over_grpc,
            }
        finally:
            caller.close()


def _as_input(picture: bytes) -> bytes:
    given: dict[str, Any] = {"text": _TEXT, "mark": "!"}
    if picture:
        given["picture"] = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return msgspec.json.encode(given)


def _as_message(picture: bytes) -> bytes:
    message: dict[str, Any] = {
        "header": {"app_id": "bench", "status": 3},
        "parameter": {"echo": {"mark": "!"}},
        "payload": {"text": {"encoding": "utf8", "status": 3, "text": base64.b64encode(_TEXT.encode()).decode()}},
    }
    if picture:
        image = base64.b64encode(picture).decode()
        message["payload"]["picture"] = {"encoding": "png", "status": 3, "image": image}
    return msgspec.json.encode(message)


def _as_call(picture: bytes) -> bytes:
    attributes = {"encoding": "utf8", "status": "3"}
    pieces = [Payload(meta=MetaDesc(name="text", dataType="TEXT", attribute=attributes), data=_TEXT.encode())]
    if picture:
        meta = MetaDesc(name="picture", dataType="IMAGE", attribute={"encoding": "png", "status": "3"})
        pieces.append(Payload(meta=meta, data=picture))
    given = LoaderInput(
        serviceId="echo", state="ONCE", headers={"appid": "bench", "status": "3"}, params={"mark": "!"}, pl=pieces
    )
    return ReqData(
        op="AIIn",
        param={"SeqNo": "1", "waitTime": "20000", "version": "v2"},
        data=[DataMeta(data=given.SerializeToString())],
    ).SerializeToString()


async def _compared(faces: dict[str, Once], pid: int, what: str) -> list[Figure]:
    times: dict[str, list[float]] = {name: [] for name in faces}
    for once in faces.values():
        await _calls(once, pid)  # warms up
    for _ in range(_ROUNDS):
        for name, once in faces.items():
            times[name].append(await _calls(once, pid))
    own = median(times["predict"])
    note = ", ".join(f"{name} {1e6 * median(samples):.0f} µs" for name, samples in times.items())
    return [
        Figure(
            scenario=f"once call over gRPC with {what}, CPU compared with {other}",
            value=median(one / two for one, two in zip(times["grpc"], times[other], strict=True)),
            unit="×",
            note=f"of the gateway per call: {note}" if other == "predict" else "",
            group="athena",
        )
        for other in ("predict", "webgate")
        if own
    ]


async def _calls(once: Once, pid: int) -> float:
    """Return the seconds of CPU that the gateway used for each of some calls."""
    before = _cpu_seconds(pid)
    for _ in range(_CALLS):
        await once()
    return (_cpu_seconds(pid) - before) / _CALLS


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, of all its threads, in nanosecond resolution."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += int((task / "schedstat").read_text().split()[0])
    return found / 1e9
